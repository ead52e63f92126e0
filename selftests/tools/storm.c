// SPDX-License-Identifier: GPL-2.0
/*
 * storm: sends one message to a mapped device again and again, and prints how often.
 *
 * usage: storm NAME SECONDS WORD...
 *
 * It ends after SECONDS of real time. The exit status is 0 if every message succeeded.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

int main(int argc, char **argv)
{
	union {
		struct dm_ioctl head;
		char room[4096];
	} call;
	struct dm_target_msg *message = (void *)(call.room + sizeof(call.head));
	unsigned long sent = 0;
	int control, at;
	int64_t end;

	if (argc < 4) {
		fputs("usage: storm NAME SECONDS WORD...\n", stderr);
		return 2;
	}
	control = open("/dev/mapper/control", O_RDWR);
	if (control < 0) {
		perror("storm: /dev/mapper/control");
		return 2;
	}
	end = now() + atol(argv[2]);
	do {
		memset(&call, 0, sizeof(call));
		call.head.version[0] = DM_VERSION_MAJOR;
		call.head.data_size = sizeof(call);
		call.head.data_start = sizeof(call.head);
		snprintf(call.head.name, sizeof(call.head.name), "%s", argv[1]);
		for (at = 3; at < argc; at++) {
			strcat(message->message, at == 3 ? "" : " ");
			strncat(message->message, argv[at], 100);
		}
		if (ioctl(control, DM_TARGET_MSG, &call)) {
			perror("storm");
			return 1;
		}
		sent++;
	} while (now() < end);
	printf("%lu\n", sent);
	return 0;
}
