// SPDX-License-Identifier: GPL-2.0
/*
 * fail_nth: repeats one operation; in attempt N the Nth allocation of the operation fails.
 *
 * usage: fail_nth [-t TASK] load NAME TABLE-LINE     the constructor: a table is loaded and cleared
 *        fail_nth [-t TASK] resume NAME TABLE-LINE   a new device gets the table, is resumed, removed
 *        fail_nth [-t TASK] reload NAME TABLE-LINE   a live device gets the table and is resumed
 *        fail_nth [-t TASK] remove NAME TABLE-LINE   a live device is removed
 *        fail_nth [-t TASK] message NAME TEXT        a message to a live device
 *        fail_nth [-t TASK] status NAME INFO|TABLE|IMA
 *        fail_nth [-t TASK] insmod FILE NAME         a module is loaded, and unloaded
 *
 * Allocations before and after the operation (creating a device, loading a table) do not fail. The
 * program ends when an attempt needs fewer than N allocations; this attempt must succeed. Each earlier
 * attempt must succeed without its allocation or fail with ENOMEM. The last line counts both.
 *
 * TASK is the task whose allocations fail, by default this process. Task 2 is kthreadd, which creates
 * the kernel's threads. It also does other work, so N has an upper limit then.
 *
 * The files in /sys/kernel/debug/failslab and fail_page_alloc select the allocations that can fail.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ATTEMPTS 5000
#define ATTEMPTS_OF_OTHERS 30

static int control, nth;
static char request[65536] __attribute__((aligned(8)));

static int die(const char *what)
{
	printf("# fail_nth: %s: %s\n", what, strerror(errno));
	exit(2);
}

static struct dm_ioctl *header(const char *name, unsigned int flags)
{
	struct dm_ioctl *head = (struct dm_ioctl *)request;

	memset(request, 0, sizeof(request));
	head->version[0] = DM_VERSION_MAJOR;
	head->data_size = sizeof(request);
	head->data_start = sizeof(*head);
	head->flags = flags;
	snprintf(head->name, sizeof(head->name), "%s", name);
	return head;
}

/* Returns like an ioctl: 0, or -1 with errno. */
static int simple(unsigned long command, const char *name, unsigned int flags)
{
	return ioctl(control, command, header(name, flags));
}

static int load(const char *name, const char *line)
{
	struct dm_ioctl *head = header(name, 0);
	struct dm_target_spec *spec = (struct dm_target_spec *)(request + sizeof(*head));
	char *parameters = (char *)(spec + 1);
	unsigned long long start, length;
	int at = 0;

	if (sscanf(line, "%llu %llu %15s %n", &start, &length, spec->target_type, &at) < 3)
		die("table line");
	spec->sector_start = start;
	spec->length = length;
	snprintf(parameters, 4096, "%s", line + at);
	spec->next = sizeof(*spec) + ((strlen(parameters) + 8) & ~7);
	head->target_count = 1;
	return ioctl(control, DM_TABLE_LOAD, head);
}

static int message(const char *name, const char *text)
{
	struct dm_ioctl *head = header(name, 0);
	struct dm_target_msg *target = (struct dm_target_msg *)(request + sizeof(*head));

	strcpy(target->message, text);
	return ioctl(control, DM_TARGET_MSG, head);
}

static int insmod(const char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC), result, error;

	if (file < 0)
		die(path);
	result = syscall(SYS_finit_module, file, "", 0);
	error = errno;
	close(file);
	errno = error;
	return result;
}

/* Prepares an attempt. No allocation fails here. */
static void before(const char *what, const char *name, const char *argument)
{
	if (!strcmp(what, "resume") || !strcmp(what, "remove")) {
		if (simple(DM_DEV_CREATE, name, 0))
			die("create");
		if (load(name, argument))
			die("load");
	}
	if (!strcmp(what, "remove") && simple(DM_DEV_SUSPEND, name, 0))
		die("resume");
	if (!strcmp(what, "reload") && load(name, argument))
		die("load");
}

static int attempt(const char *what, const char *name, const char *argument)
{
	if (!strcmp(what, "load"))
		return load(name, argument);
	if (!strcmp(what, "resume") || !strcmp(what, "reload"))
		return simple(DM_DEV_SUSPEND, name, 0);
	if (!strcmp(what, "remove"))
		return simple(DM_DEV_REMOVE, name, 0);
	if (!strcmp(what, "message"))
		return message(name, argument);
	if (!strcmp(what, "insmod"))
		return insmod(name);
	if (!strcmp(argument, "TABLE"))
		return simple(DM_TABLE_STATUS, name, DM_STATUS_TABLE_FLAG | DM_NOFLUSH_FLAG);
	if (!strcmp(argument, "IMA"))
		return simple(DM_TABLE_STATUS, name, DM_IMA_MEASUREMENT_FLAG | DM_NOFLUSH_FLAG);
	return simple(DM_TABLE_STATUS, name, DM_NOFLUSH_FLAG);
}

/* Restores the state from before the attempt, for either result. */
static void after(const char *what, const char *name, const char *argument, int succeeded)
{
	if (!strcmp(what, "load") && succeeded && simple(DM_TABLE_CLEAR, name, 0))
		die("clear");
	if (!strcmp(what, "resume") && simple(DM_DEV_REMOVE, name, 0))
		die("remove");
	if (!strcmp(what, "remove") && !succeeded && simple(DM_DEV_REMOVE, name, 0))
		die("remove");
	/* If the new table did not become live, the device has the old one and may be suspended. */
	if (!strcmp(what, "reload") && !succeeded && simple(DM_DEV_SUSPEND, name, 0))
		die("resume again");
	if (!strcmp(what, "insmod") && succeeded && syscall(SYS_delete_module, argument, O_NONBLOCK))
		die("rmmod");
}

static void arm(int n)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", n);

	if (pwrite(nth, text, length, 0) != length)
		die("arm");
}

/* Returns how many more allocations would have succeeded before one failed; 0 if one failed. */
static int disarm(void)
{
	char text[16] = "";

	if (pread(nth, text, sizeof(text) - 1, 0) < 1)
		die("disarm");
	arm(0);
	return atoi(text);
}

int main(int argc, char **argv)
{
	int failed = 0, survived = 0, result, error, left, n, most = ATTEMPTS, other = ENOMEM;
	const char *task = "self", *what, *name, *argument;
	char path[64];

	if (argc > 2 && !strcmp(argv[1], "-t")) {
		task = argv[2];
		most = ATTEMPTS_OF_OTHERS;
		/* A fork reports EAGAIN for some of its allocations. */
		other = EAGAIN;
		argc -= 2;
		argv += 2;
	}
	if (argc != 4)
		return 2;
	what = argv[1];
	name = argv[2];
	argument = argv[3];
	snprintf(path, sizeof(path), "/proc/%s/fail-nth", task);
	nth = open(path, O_RDWR | O_CLOEXEC);
	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (nth < 0 || control < 0)
		die("open");
	/* Page faults would allocate page tables, which could fail, too. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		die("mlockall");
	if (!strcmp(what, "load") && simple(DM_DEV_CREATE, name, 0))
		die("create");
	for (n = 1;; n++) {
		before(what, name, argument);
		arm(n);
		result = attempt(what, name, argument);
		error = result ? errno : 0;
		left = disarm();
		after(what, name, argument, !result);
		if (error && ((error != ENOMEM && error != other) || left)) {
			printf("# %s, allocation %d%s: %s\n", what, n,
				left ? " was not needed" : "", strerror(error));
			return 1;
		}
		if (left || n == most)
			break;
		if (error)
			failed++;
		else
			survived++;
	}
	if (!strcmp(what, "load") && simple(DM_DEV_REMOVE, name, 0))
		die("remove");
	printf("# %s: %d failed, %d succeeded without their allocation\n", what, failed, survived);
	/* Without any injected failure nothing was tested. */
	return failed + survived == 0;
}
