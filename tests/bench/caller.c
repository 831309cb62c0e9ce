/*
 * Calls GetHeaders, or GetPch with a PROFILE, and measures.
 *
 *     caller NAME RELEASE CONNECTIONS CALLS PID [PROFILE]
 *
 * One connection waits for each answer before it calls again. Several have one call each in flight, and all
 * begin at once. PID is the service's: its processor time is read at the first call and at the last answer, so
 * that what it does afterwards is not counted. Prints one JSON object; times are in seconds.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <systemd/sd-bus.h>
#include <time.h>

#define PATIENCE_MSEC (300 * 1000)
#define PATIENCE_USEC (PATIENCE_MSEC * 1000ULL)

static const char *name, *release, *profile;
static clockid_t service_clock;
static long calls, sent, answered, errors, added;
static double *latencies, wall, cpu;

struct connection {
        sd_bus *bus;
        double called_at;
};

static double clock_seconds(clockid_t clock) {
        struct timespec t;

        clock_gettime(clock, &t);
        return t.tv_sec + t.tv_nsec / 1e9;
}

static void start_clocks(void) {
        cpu = clock_seconds(service_clock);
        wall = clock_seconds(CLOCK_MONOTONIC);
}

static void stop_clocks(void) {
        wall = clock_seconds(CLOCK_MONOTONIC) - wall;
        cpu = clock_seconds(service_clock) - cpu;
}

static void check(int r, const char *what) {
        if (r < 0) {
                fprintf(stderr, "caller: %s: %s\n", what, strerror(-r));
                exit(1);
        }
}

static void note(struct connection *c, sd_bus_message *answer) {
        latencies[answered++] = clock_seconds(CLOCK_MONOTONIC) - c->called_at;
        if (!sd_bus_message_is_method_error(answer, NULL))
                return;
        if (!errors++)
                fprintf(stderr, "caller: %s\n", sd_bus_message_get_error(answer)->message);
}

static sd_bus_message *new_call(struct connection *c) {
        sd_bus_message *call;

        check(sd_bus_message_new_method_call(c->bus, &call, name, "/org/kheaders/Provide",
                                             "org.kheaders.Provide", profile ? "GetPch" : "GetHeaders"),
              "new call");
        if (profile)
                check(sd_bus_message_append(call, "ssa{sv}", release, profile, 0), "append");
        else
                check(sd_bus_message_append(call, "sa{sv}", release, 0), "append");
        c->called_at = clock_seconds(CLOCK_MONOTONIC);
        sent++;
        return call;
}

static void process(struct connection *c) {
        int r;

        do {
                r = sd_bus_process(c->bus, NULL);
                check(r, "process");
        } while (r > 0);
}

/* One caller, the simplest there is: no event loop. */

static void call_in_turn(struct connection *c) {
        start_clocks();
        while (sent < calls) {
                sd_bus_message *call = new_call(c), *answer = NULL;
                sd_bus_error error = SD_BUS_ERROR_NULL;
                int r;

                r = sd_bus_call(c->bus, call, PATIENCE_USEC, &error, &answer);
                check(r, error.message ? error.message : "call");
                note(c, answer);
                sd_bus_message_unref(call);
                sd_bus_message_unref(answer);
        }
        stop_clocks();
        process(c); /* signals that came before the last answer */
}

/* Many callers. Not with sd-event, which looks at every connection whenever one of them has something. */

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *error);

static void call_soon(struct connection *c) {
        sd_bus_message *call = new_call(c);

        check(sd_bus_call_async(c->bus, NULL, call, on_answer, c, PATIENCE_USEC), "call");
        check(sd_bus_flush(c->bus), "send");
        sd_bus_message_unref(call);
}

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *error) {
        struct connection *c = userdata;

        (void) error;
        note(c, answer);
        if (sent < calls)
                call_soon(c);
        return 1;
}

static int on_added(sd_bus_message *signal, void *userdata, sd_bus_error *error) {
        (void) signal, (void) userdata, (void) error;
        added++;
        return 0;
}

static void call_together(struct connection *all, long connections) {
        struct epoll_event ready[64];
        int epoll = epoll_create1(EPOLL_CLOEXEC);

        for (long i = 0; i < connections; i++) {
                struct epoll_event event = { .events = EPOLLIN, .data.ptr = &all[i] };

                check(epoll_ctl(epoll, EPOLL_CTL_ADD, sd_bus_get_fd(all[i].bus), &event), "epoll_ctl");
                process(&all[i]);
        }
        start_clocks();
        for (long i = 0; i < connections && sent < calls; i++)
                call_soon(&all[i]);
        while (answered < calls) {
                int n = epoll_wait(epoll, ready, sizeof ready / sizeof *ready, PATIENCE_MSEC);

                check(n ? n : -ETIMEDOUT, "waiting for answers");
                for (int i = 0; i < n; i++)
                        process(ready[i].data.ptr);
        }
        stop_clocks();
}

static struct connection *connect_all(long connections) {
        struct connection *all = calloc(connections, sizeof *all);
        const char *unique;

        for (long i = 0; i < connections; i++) {
                check(sd_bus_open_system(&all[i].bus), "connect");
                check(sd_bus_get_unique_name(all[i].bus, &unique), "Hello");
        }
        check(sd_bus_match_signal(all[0].bus, NULL, name, NULL, "org.kheaders.Provide", "EntryAdded", on_added,
                                  NULL), "match");
        return all;
}

static int by_size(const void *a, const void *b) {
        double x = *(const double *) a, y = *(const double *) b;

        return (x > y) - (x < y);
}

static void print(void) {
        qsort(latencies, answered, sizeof *latencies, by_size);
        printf("{\"calls\": %ld, \"errors\": %ld, \"added\": %ld, \"wall\": %.6f, \"cpu\": %.6f, "
               "\"p50\": %.7f, \"p99\": %.7f, \"longest\": %.6f}\n",
               answered, errors, added, wall, cpu, latencies[answered / 2], latencies[answered * 99 / 100],
               latencies[answered - 1]);
}

int main(int argc, char **argv) {
        struct rlimit descriptors = { 65536, 65536 };
        struct connection *all;
        long connections;

        if (argc < 6 || argc > 7 || atol(argv[3]) < 1 || atol(argv[4]) < 1) {
                fprintf(stderr, "usage: caller NAME RELEASE CONNECTIONS CALLS PID [PROFILE]\n");
                return 2;
        }
        name = argv[1];
        release = argv[2];
        profile = argv[6];
        connections = atol(argv[3]);
        calls = atol(argv[4]);
        check(-clock_getcpuclockid(atol(argv[5]), &service_clock), "the clock of the service");
        setrlimit(RLIMIT_NOFILE, &descriptors);
        latencies = calloc(calls, sizeof *latencies);
        all = connect_all(connections);

        if (connections == 1)
                call_in_turn(all);
        else
                call_together(all, connections);
        print();
        return errors > 0;
}
