// SPDX-License-Identifier: GPL-2.0
/*
 * fail_nth: does one thing again and again, and the Nth time its Nth allocation fails.
 *
 * usage: fail_nth [-t TASK] load NAME TABLE-LINE     the constructor: a table is loaded, and dropped
 *        fail_nth [-t TASK] resume NAME TABLE-LINE   a new device gets the table, is resumed, removed
 *        fail_nth [-t TASK] reload NAME TABLE-LINE   a live device gets the table and is resumed
 *        fail_nth [-t TASK] remove NAME TABLE-LINE   a live device is removed
 *        fail_nth [-t TASK] message NAME TEXT        a message to a live device
 *        fail_nth [-t TASK] status NAME INFO|TABLE|IMA
 *        fail_nth [-t TASK] insmod FILE NAME         a module is loaded, and unloaded
 *
 * What is done before and after it (a device made, a table loaded) has all the memory it wants. It
 * ends when an attempt needs less than N allocations, and that attempt must succeed. Each one before
 * it must succeed all the same or fail with ENOMEM. The last line says how many did which.
 *
 * TASK is the task whose allocations fail, this one by default; 2 is the kernel's, which makes its
 * threads. Then what else that task does counts too, so N ends at a limit as well.
 *
 * Which allocations count is set in /sys/kernel/debug/failslab and fail_page_alloc.
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

/* As any ioctl: 0, or -1 and errno. */
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

/* What must work before the attempt. */
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

/* Whatever the attempt came to, the next one begins where this one began. */
static void after(const char *what, const char *name, const char *argument, int succeeded)
{
	if (!strcmp(what, "load") && succeeded && simple(DM_TABLE_CLEAR, name, 0))
		die("clear");
	if (!strcmp(what, "resume") && simple(DM_DEV_REMOVE, name, 0))
		die("remove");
	if (!strcmp(what, "remove") && !succeeded && simple(DM_DEV_REMOVE, name, 0))
		die("remove");
	/* A device whose new table did not come to life has its old one, suspended or not. */
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

/* How many allocations short of failing one the attempt was. */
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
		/* What a fork says for some of its allocations. */
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
	/* Page tables are allocations, too. */
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
	/* An attempt that never failed was not tested. */
	return failed + survived == 0;
}
