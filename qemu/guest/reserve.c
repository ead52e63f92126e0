// SPDX-License-Identifier: GPL-2.0
/*
 * reserve: sends a reservation command to a disk by the ioctls of linux/pr.h.
 *
 * usage: reserve DEVICE register OLD NEW
 *        reserve DEVICE reserve KEY TYPE
 *        reserve DEVICE release KEY TYPE
 *        reserve DEVICE preempt OWN VICTIM TYPE
 *        reserve DEVICE preempt-abort OWN VICTIM TYPE
 *        reserve DEVICE clear KEY
 *        reserve DEVICE keys          the registered keys, one in a line
 *        reserve DEVICE held          "<key> <type>"; the type is 0 if nothing is reserved
 *
 * A command that changes something prints one word: `good`, `conflict`, `status-<n>` for another
 * status of the device, or `errno-<n>`. The exit status is 0 if it is `good`. TYPE is a number of
 * enum pr_type: 3 is WERO, 5 is WEAR.
 *
 * The drivers take the field `old_key` of a PREEMPT for the caller's own key and `new_key` for that
 * of the victim (sd_pr_preempt, nvme_pr_preempt); the kernel's documentation says the opposite.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/ioctl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "program.h"

/* The headers of Debian 13 lack PR_READ_KEYS and PR_READ_RESERVATION, so the whole ABI is here. */
struct reservation {
	uint64_t key;
	uint32_t type;
	uint32_t flags;
};

struct registration {
	uint64_t old_key;
	uint64_t new_key;
	uint32_t flags;
	uint32_t pad;
};

struct preempt {
	uint64_t own_key; /* old_key in linux/pr.h */
	uint64_t victim_key; /* new_key there */
	uint32_t type;
	uint32_t flags;
};

struct clear {
	uint64_t key;
	uint32_t flags;
	uint32_t pad;
};

struct read_keys {
	uint32_t generation;
	uint32_t num_keys;
	uint64_t keys_ptr;
};

struct read_reservation {
	uint64_t key;
	uint32_t generation;
	uint32_t type;
};

#define PR_REGISTER _IOW('p', 200, struct registration)
#define PR_RESERVE _IOW('p', 201, struct reservation)
#define PR_RELEASE _IOW('p', 202, struct reservation)
#define PR_PREEMPT _IOW('p', 203, struct preempt)
#define PR_PREEMPT_ABORT _IOW('p', 204, struct preempt)
#define PR_CLEAR _IOW('p', 205, struct clear)
#define PR_READ_KEYS _IOWR('p', 206, struct read_keys)
#define PR_READ_RESERVATION _IOR('p', 207, struct read_reservation)

#define CONFLICT 0x18
#define MAX_KEYS 64

static int usage(void)
{
	fprintf(stderr, "usage: reserve DEVICE COMMAND [KEY...] [TYPE]; see qemu/guest/reserve.c\n");
	return 2;
}

/* Prints what an ioctl returned. A positive result is the status of the device. */
static int told(int result)
{
	if (!result)
		printf("good\n");
	else if (result == CONFLICT)
		printf("conflict\n");
	else if (result > 0)
		printf("status-%d\n", result);
	else
		printf("errno-%d\n", errno);
	return result ? 1 : 0;
}

static int keys(int fd)
{
	uint64_t found[MAX_KEYS];
	struct read_keys argument = { .num_keys = MAX_KEYS, .keys_ptr = (uintptr_t)found };
	int result = ioctl(fd, PR_READ_KEYS, &argument);

	if (result)
		return told(result);
	for (uint32_t n = 0; n < argument.num_keys && n < MAX_KEYS; n++)
		printf("%#" PRIx64 "\n", found[n]);
	return 0;
}

static int held(int fd)
{
	struct read_reservation argument = { 0 };
	int result = ioctl(fd, PR_READ_RESERVATION, &argument);

	if (result)
		return told(result);
	printf("%#" PRIx64 " %" PRIu32 "\n", argument.key, argument.type);
	return 0;
}

/* Carries out a command with its arguments in `words`. Returns -1 if there is no such command. */
static int command(int fd, const char *name, int count, char **words)
{
	uint64_t n[3] = { 0 };

	for (int i = 0; i < count && i < 3; i++)
		n[i] = number(words[i]);
	if (!strcmp(name, "keys") && count == 0)
		return keys(fd);
	if (!strcmp(name, "held") && count == 0)
		return held(fd);
	if (!strcmp(name, "clear") && count == 1) {
		struct clear it = { .key = n[0] };

		return told(ioctl(fd, PR_CLEAR, &it));
	}
	if (!strcmp(name, "register") && count == 2) {
		struct registration it = { .old_key = n[0], .new_key = n[1] };

		return told(ioctl(fd, PR_REGISTER, &it));
	}
	if (count == 2) {
		struct reservation it = { .key = n[0], .type = (uint32_t)n[1] };

		if (!strcmp(name, "reserve"))
			return told(ioctl(fd, PR_RESERVE, &it));
		if (!strcmp(name, "release"))
			return told(ioctl(fd, PR_RELEASE, &it));
	}
	if (count == 3) {
		struct preempt it = {
			.own_key = n[0], .victim_key = n[1], .type = (uint32_t)n[2],
		};

		if (!strcmp(name, "preempt"))
			return told(ioctl(fd, PR_PREEMPT, &it));
		if (!strcmp(name, "preempt-abort"))
			return told(ioctl(fd, PR_PREEMPT_ABORT, &it));
	}
	return -1;
}

int main(int argc, char **argv)
{
	int fd, result;

	if (argc < 3)
		return usage();
	fd = open(argv[1], O_RDWR);
	if (fd < 0) {
		perror(argv[1]);
		return 2;
	}
	result = command(fd, argv[2], argc - 3, argv + 3);
	return result < 0 ? usage() : result;
}
