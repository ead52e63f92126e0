// SPDX-License-Identifier: GPL-2.0
/*
 * blocks: fills 4 KiB blocks with content that says which it is, and says what blocks contain.
 *
 * usage: blocks fill DEVICE TAG FIRST COUNT
 *            writes COUNT blocks from block FIRST on, many at once; the exit status tells
 *        blocks write DEVICE TAG BLOCK...
 *            writes all of them at the same time; as each ends, one line says what its writer was
 *            told: "<block> ok|<errno>"
 *        blocks read DEVICE COUNT
 *            one line for each run of blocks that are alike: "<first> <count> <tag>|bad|zero"
 *
 * "write" submits its blocks in one call, which from three blocks on the kernel plugs: an array sees
 * all of them before it begins with any, so that those of one stripe are written together.
 *
 * All I/O is direct. Every 8 bytes of a block depend on its tag and its number (rig/raid.py
 * computes the same), so that one wrong byte is noticed, parity of different blocks is different,
 * and a block at the wrong place is bad.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "program.h"

#define WORDS (BLOCK / 8)
#define AT_ONCE 48

/* Steele, Lea, Flood: SplitMix64. */
static uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
	return value ^ (value >> 31);
}

/* Word 0 is the tag, word 1 the number of the block; the others follow from both. */
static void fill(uint64_t *words, uint64_t tag, uint64_t block)
{
	words[0] = tag;
	words[1] = block;
	for (uint64_t at = 2; at < WORDS; at++)
		words[at] = mix((tag << 40) ^ (block << 12) ^ at);
}

static uint64_t *memory(size_t blocks)
{
	uint64_t *words = aligned_alloc(BLOCK, blocks * BLOCK);

	if (!words)
		fail("memory");
	return words;
}

static int open_direct(const char *path, int how)
{
	int fd = open(path, how | O_DIRECT);

	if (fd < 0)
		fail(path);
	return fd;
}

static int fill_all(const char *path, uint64_t tag, uint64_t first, uint64_t count)
{
	uint64_t *words = memory(AT_ONCE);
	int fd = open_direct(path, O_WRONLY);

	for (uint64_t done = 0; done < count;) {
		uint64_t now = count - done < AT_ONCE ? count - done : AT_ONCE;
		ssize_t length = (ssize_t)(now * BLOCK);

		for (uint64_t at = 0; at < now; at++)
			fill(words + at * WORDS, tag, first + done + at);
		if (pwrite(fd, words, (size_t)length, (off_t)((first + done) * BLOCK)) != length)
			fail(path);
		done += now;
	}
	return 0;
}

/* Says what became of some writes, as they end; whether any failed. */
static int tell_ends(aio_context_t queue, long count, char **blocks)
{
	struct io_event events[AT_ONCE];
	int failed = 0;

	while (count > 0) {
		long ended = syscall(SYS_io_getevents, queue, 1, AT_ONCE, events, NULL);

		if (ended < 0)
			fail("io_getevents");
		for (long i = 0; i < ended; i++) {
			const char *block = blocks[events[i].data];

			if (events[i].res == BLOCK)
				printf("%s ok\n", block);
			else
				printf("%s %lld\n", block, events[i].res < 0 ? -events[i].res : EIO);
			failed |= events[i].res != BLOCK;
		}
		fflush(stdout);
		count -= ended;
	}
	return failed;
}

static int write_each(const char *path, uint64_t tag, int count, char **blocks)
{
	uint64_t *words = memory((size_t)count);
	struct iocb *writes = calloc((size_t)count, sizeof(*writes));
	struct iocb **all = calloc((size_t)count, sizeof(*all));
	aio_context_t queue = 0;
	int fd = open_direct(path, O_WRONLY);
	long submitted = 0;

	if (!writes || !all)
		fail("memory");
	if (syscall(SYS_io_setup, count, &queue))
		fail("io_setup");
	for (int i = 0; i < count; i++) {
		uint64_t block = number(blocks[i]);

		fill(words + i * WORDS, tag, block);
		writes[i].aio_fildes = (uint32_t)fd;
		writes[i].aio_lio_opcode = IOCB_CMD_PWRITE;
		writes[i].aio_buf = (uintptr_t)(words + i * WORDS);
		writes[i].aio_nbytes = BLOCK;
		writes[i].aio_offset = (int64_t)(block * BLOCK);
		writes[i].aio_data = (uint64_t)i;
		all[i] = &writes[i];
	}
	while (submitted < count) {
		long more = syscall(SYS_io_submit, queue, count - submitted, all + submitted);

		if (more < 0)
			fail("io_submit");
		submitted += more;
	}
	return tell_ends(queue, count, blocks);
}

/* What a block is: its tag, or one of these. */
#define BAD UINT64_MAX
#define ZERO (UINT64_MAX - 1)

static uint64_t judge(const uint64_t *words, uint64_t block)
{
	static const uint64_t zero[WORDS];
	uint64_t right[WORDS];

	if (!memcmp(words, zero, BLOCK))
		return ZERO;
	fill(right, words[0], block);
	return memcmp(words, right, BLOCK) ? BAD : words[0];
}

static void tell(uint64_t first, uint64_t count, uint64_t what)
{
	if (!count)
		return;
	printf("%" PRIu64 " %" PRIu64 " ", first, count);
	if (what == BAD)
		printf("bad\n");
	else if (what == ZERO)
		printf("zero\n");
	else
		printf("%" PRIu64 "\n", what);
}

static int read_all(const char *path, uint64_t count)
{
	uint64_t *words = memory(1), first = 0, last = BAD;
	int fd = open_direct(path, O_RDONLY);

	for (uint64_t block = 0; block < count; block++) {
		uint64_t what;

		if (pread(fd, words, BLOCK, (off_t)(block * BLOCK)) != BLOCK)
			fail(path);
		what = judge(words, block);
		if (what != last) {
			tell(first, block - first, last);
			first = block;
			last = what;
		}
	}
	tell(first, count - first, last);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "fill") && argc == 6)
		return fill_all(argv[2], number(argv[3]), number(argv[4]), number(argv[5]));
	if (!strcmp(what, "write") && argc > 4)
		return write_each(argv[2], number(argv[3]), argc - 4, argv + 4);
	if (!strcmp(what, "read") && argc == 4)
		return read_all(argv[2], number(argv[3]));
	fprintf(stderr, "usage: blocks fill|write|read ... (see the source)\n");
	return 2;
}
