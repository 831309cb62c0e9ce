/*
 * Calls GetHeaders and measures.
 *
 *     caller NAME RELEASE CONNECTIONS CALLS PID
 *
 * One connection waits for each answer before it calls again. Several have one call each in flight, and all
 * begin at once. PID is the service's: its processor time is read at the first call and at the last answer, so
 * that what it does afterwards is not counted. Prints one JSON object; times are in seconds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include <time.h>

#define PATIENCE_USEC (300 * 1000000ULL)

static const char *name, *release;
static clockid_t service_clock;
static long calls, sent, answered, errors, added;
static double *latencies;

struct connection {
        sd_bus *bus;
        double called_at;
};

static double clock_seconds(clockid_t clock) {
        struct timespec t;

        clock_gettime(clock, &t);
        return t.tv_sec + t.tv_nsec / 1e9;
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
                                             "org.kheaders.Provide", "GetHeaders"), "new call");
        check(sd_bus_message_append(call, "sa{sv}", release, 0), "append");
        c->called_at = clock_seconds(CLOCK_MONOTONIC);
        sent++;
        return call;
}

/* One caller, the simplest there is: no event loop. */

static void call_in_turn(struct connection *c) {
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
}

/* Many callers. */

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *error);

static void call_soon(struct connection *c) {
        sd_bus_message *call = new_call(c);

        check(sd_bus_call_async(c->bus, NULL, call, on_answer, c, PATIENCE_USEC), "call");
        sd_bus_message_unref(call);
}

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *error) {
        struct connection *c = userdata;

        (void) error;
        note(c, answer);
        if (sent < calls)
                call_soon(c);
        else if (answered == calls)
                sd_event_exit(sd_bus_get_event(c->bus), 0);
        return 1;
}

static int on_added(sd_bus_message *signal, void *userdata, sd_bus_error *error) {
        (void) signal, (void) userdata, (void) error;
        added++;
        return 0;
}

static void call_together(struct connection *all, long connections) {
        sd_event *event;

        check(sd_event_default(&event), "event loop");
        for (long i = 0; i < connections; i++)
                check(sd_bus_attach_event(all[i].bus, event, SD_EVENT_PRIORITY_NORMAL), "attach");
        for (long i = 0; i < connections && sent < calls; i++)
                call_soon(&all[i]);
        check(sd_event_loop(event), "event loop");
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

static void print(double wall, double cpu) {
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
        double begun, wall, cpu;

        if (argc != 6 || atol(argv[3]) < 1 || atol(argv[4]) < 1) {
                fprintf(stderr, "usage: caller NAME RELEASE CONNECTIONS CALLS PID\n");
                return 2;
        }
        name = argv[1];
        release = argv[2];
        connections = atol(argv[3]);
        calls = atol(argv[4]);
        check(-clock_getcpuclockid(atol(argv[5]), &service_clock), "the clock of the service");
        setrlimit(RLIMIT_NOFILE, &descriptors);
        latencies = calloc(calls, sizeof *latencies);
        all = connect_all(connections);

        cpu = clock_seconds(service_clock);
        begun = clock_seconds(CLOCK_MONOTONIC);
        if (connections == 1)
                call_in_turn(all);
        else
                call_together(all, connections);
        wall = clock_seconds(CLOCK_MONOTONIC) - begun;
        cpu = clock_seconds(service_clock) - cpu;
        while (sd_bus_process(all[0].bus, NULL) > 0)
                ; /* signals that came before the last answer */
        print(wall, cpu);
        return errors > 0;
}
