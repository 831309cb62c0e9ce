// SPDX-License-Identifier: LGPL-2.1-or-later
/* Prints where the headers of the running kernel are, and keeps them there while a command runs:
 *
 *     cc -o headers headers.c $(pkg-config --cflags --libs libsystemd)
 *     ./headers sh -c 'ls "$KERNEL_HEADERS"'
 *
 * A program that calls acquire_headers() works on every host: where kheadersd is missing, or has no headers, it goes
 * on with the place that distributions use. See org.kheaders.Provide(5) for the interface.
 */

#define _GNU_SOURCE

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <systemd/sd-bus.h>

#define TIME_LIMIT_USEC (600 * 1000000ULL) /* a download takes minutes */

/* Asks kheadersd for the headers of the running kernel and leases them.
 *
 * Returns a file descriptor: the headers stay until the last process that has it open closes it or ends. Returns a
 * negative errno if there are none; *reason then says why, or is NULL. The caller frees *path and *reason.
 */
static int acquire_headers(char **path, char **reason)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *call = NULL, *reply = NULL;
	sd_bus *bus = NULL;
	const char *found;
	int lease, result;

	result = sd_bus_open_system(&bus);
	if (result >= 0)
		result = sd_bus_message_new_method_call(bus, &call, "org.kheaders.Provide", "/org/kheaders/Provide",
							"org.kheaders.Provide", "Acquire");
	if (result >= 0)
		result = sd_bus_message_append(call, "sa{sv}", "", 1, "reason", "s", "headers.c");
	if (result >= 0)
		result = sd_bus_call(bus, call, TIME_LIMIT_USEC, &error, &reply);
	if (result >= 0)
		result = sd_bus_message_read(reply, "sh", &found, &lease);
	if (result >= 0)
		result = fcntl(lease, F_DUPFD, 3); /* without FD_CLOEXEC: the command inherits the lease */
	if (result >= 0)
		*path = strdup(found);
	else
		*reason = error.message ? strdup(error.message) : NULL;

	sd_bus_error_free(&error);
	sd_bus_message_unref(reply);
	sd_bus_message_unref(call);
	sd_bus_flush_close_unref(bus);
	return result;
}

int main(int argc, char **argv)
{
	char *path = NULL, *reason = NULL;
	int lease = acquire_headers(&path, &reason);

	if (lease < 0) {
		struct utsname kernel;

		fprintf(stderr, "headers: no headers from kheadersd: %s\n", reason ? reason : strerror(-lease));
		if (uname(&kernel) < 0 || asprintf(&path, "/lib/modules/%s/build", kernel.release) < 0)
			return 1;
	}
	puts(path);
	fflush(stdout);
	if (argc > 1) {
		setenv("KERNEL_HEADERS", path, 1);
		execvp(argv[1], argv + 1);
		perror(argv[1]);
		return 127;
	}
	free(path);
	free(reason);
	return 0;
}
