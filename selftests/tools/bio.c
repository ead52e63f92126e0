// SPDX-License-Identifier: GPL-2.0
/*
 * bio: performs one operation on a block device and prints its result.
 *
 * usage: bio DEVICE OPERATION OFFSET LENGTH [FLAG...]
 *
 * The result is one word: ok, short (fewer bytes than requested), or the name of the errno. The exit
 * status is 0 if the result is ok.
 *
 *   read write    by preadv2 and pwritev2; the data of a write is LENGTH bytes of the letter w
 *   flush         fsync of a file without dirty pages: an empty flush
 *   discard, secure, zeroes   the ioctls BLKDISCARD, BLKSECDISCARD, BLKZEROOUT
 *   sgio          an SG_IO ioctl with TEST UNIT READY; OFFSET and LENGTH are ignored
 *
 * Flags of read and write: direct (O_DIRECT), dsync (with O_DIRECT: FUA, or a flush behind it),
 * nowait, polled.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <scsi/sg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

struct flags {
	int open;
	int io;
};

static int usage(void)
{
	fputs("usage: bio DEVICE OPERATION OFFSET LENGTH [direct|dsync|nowait|polled]...\n", stderr);
	return 2;
}

static int say(long result, uint64_t length)
{
	int bad = result < 0 || (uint64_t)result != length;

	puts(result < 0 ? strerrorname_np(errno) : bad ? "short" : "ok");
	return bad;
}

/* Returns 0 for a word that is no flag. */
static int add_flag(struct flags *flags, const char *word)
{
	if (!strcmp(word, "direct"))
		flags->open |= O_DIRECT;
	else if (!strcmp(word, "dsync"))
		flags->open |= O_DSYNC;
	else if (!strcmp(word, "nowait"))
		flags->io |= RWF_NOWAIT;
	else if (!strcmp(word, "polled"))
		flags->io |= RWF_HIPRI;
	else
		return 0;
	return 1;
}

static int transfer(int fd, int is_write, uint64_t offset, uint64_t length, int flags)
{
	struct iovec vec = { .iov_len = length };

	if (posix_memalign(&vec.iov_base, 4096, length ? length : 1)) {
		puts("ENOMEM");
		return 1;
	}
	memset(vec.iov_base, 'w', length);
	return say(is_write ? pwritev2(fd, &vec, 1, offset, flags)
			    : preadv2(fd, &vec, 1, offset, flags), length);
}

static int range(int fd, unsigned long request, uint64_t offset, uint64_t length)
{
	uint64_t where[2] = { offset, length };

	return say(ioctl(fd, request, where), 0);
}

static int test_unit_ready(int fd)
{
	unsigned char command[6] = { 0 }, sense[32];
	struct sg_io_hdr header = {
		.interface_id = 'S',
		.dxfer_direction = SG_DXFER_NONE,
		.cmd_len = sizeof(command),
		.cmdp = command,
		.mx_sb_len = sizeof(sense),
		.sbp = sense,
		.timeout = 10000,
	};

	return say(ioctl(fd, SG_IO, &header), 0);
}

int main(int argc, char **argv)
{
	struct flags flags = { .open = O_RDWR, .io = 0 };
	uint64_t offset, length;
	const char *operation;
	int fd;

	if (argc < 5)
		return usage();
	operation = argv[2];
	offset = strtoull(argv[3], NULL, 0);
	length = strtoull(argv[4], NULL, 0);
	for (int i = 5; i < argc; i++)
		if (!add_flag(&flags, argv[i]))
			return usage();
	fd = open(argv[1], flags.open);
	if (fd < 0)
		return say(fd, 0);
	if (!strcmp(operation, "read"))
		return transfer(fd, 0, offset, length, flags.io);
	if (!strcmp(operation, "write"))
		return transfer(fd, 1, offset, length, flags.io);
	if (!strcmp(operation, "flush"))
		return say(fsync(fd), 0);
	if (!strcmp(operation, "discard"))
		return range(fd, BLKDISCARD, offset, length);
	if (!strcmp(operation, "secure"))
		return range(fd, BLKSECDISCARD, offset, length);
	if (!strcmp(operation, "zeroes"))
		return range(fd, BLKZEROOUT, offset, length);
	if (!strcmp(operation, "sgio"))
		return test_unit_ready(fd);
	return usage();
}
