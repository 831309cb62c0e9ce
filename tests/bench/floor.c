/*
 * The floor: a service that answers GetHeaders with a constant, as little as sd-bus can do.
 *
 *     floor NAME PATH RELEASE
 *
 * The answer has the signature, the keys and the lengths of the daemon's own. Serves until it is killed.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

struct answer {
        const char *path;
        const char *release;
};

static int get_headers(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        const struct answer *answer = userdata;
        const char *release;
        int r;

        (void) error;
        r = sd_bus_message_read(call, "s", &release);
        if (r < 0)
                return r;
        r = sd_bus_message_skip(call, "a{sv}");
        if (r < 0)
                return r;
        return sd_bus_reply_method_return(
                        call, "sa{sv}", answer->path, 12,
                        "release", "s", answer->release,
                        "source", "s", "sysfs",
                        "source_tree", "s", answer->path,
                        "build_tree", "s", answer->path,
                        "fresh", "b", 0,
                        "environment", "a{ss}", 2,
                        "BCC_KERNEL_SOURCE", answer->path,
                        "BPFTRACE_KERNEL_SOURCE", answer->path,
                        "digest", "s", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                        "bytes", "t", (uint64_t) 46137344,
                        "files", "u", (uint32_t) 6372,
                        "extracted_at", "t", (uint64_t) 1700000000000000,
                        "last_used", "t", (uint64_t) 1700000000000000,
                        "origin", "s", "/sys/kernel/kheaders.tar.xz");
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("GetHeaders", "sa{sv}", "sa{sv}", get_headers, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

static int serve(const char *name, struct answer *answer) {
        sd_event *event;
        sd_bus *bus;
        int r;

        r = sd_event_default(&event);
        if (r < 0)
                return r;
        r = sd_bus_open_system(&bus);
        if (r < 0)
                return r;
        r = sd_bus_add_object_vtable(bus, NULL, "/org/kheaders/Provide", "org.kheaders.Provide", vtable, answer);
        if (r < 0)
                return r;
        r = sd_bus_request_name(bus, name, 0);
        if (r < 0)
                return r;
        r = sd_bus_attach_event(bus, event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return r;
        puts("ready");
        fflush(stdout);
        return sd_event_loop(event);
}

int main(int argc, char **argv) {
        int r;

        if (argc != 4) {
                fprintf(stderr, "usage: floor NAME PATH RELEASE\n");
                return 2;
        }
        r = serve(argv[1], &(struct answer) { .path = argv[2], .release = argv[3] });
        if (r < 0)
                fprintf(stderr, "floor: %s\n", strerror(-r));
        return r < 0;
}
