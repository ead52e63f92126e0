// SPDX-License-Identifier: GPL-2.0
/*
 * window: lets time pass between two markers, for what the kernel does on its own.
 *
 * usage: window SECONDS
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "marker.h"

int main(int argc, char **argv)
{
	struct timespec left = { .tv_sec = argc == 2 ? atoi(argv[1]) : 0 };

	if (left.tv_sec <= 0) {
		fprintf(stderr, "usage: window SECONDS\n");
		return 2;
	}
	marker(MARKER_BEGIN);
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left))
		;
	marker(MARKER_END);
	return 0;
}
