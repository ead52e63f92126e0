// SPDX-License-Identifier: GPL-2.0
/*
 * blocks: fills 4 KiB blocks with content that says which it is, and says what blocks contain.
 *
 * usage: blocks fill DEVICE TAG FIRST COUNT
 *            writes COUNT blocks from block FIRST on, many at once; the exit status tells
 *        blocks write DEVICE TAG BLOCK...
 *            writes each block by a process of its own, all at the same time; as each ends, one
 *            line says what its writer was told: "<block> ok|<errno>"
 *        blocks read DEVICE COUNT
 *            one line for each run of blocks that are alike: "<first> <count> <tag>|bad|zero"
 *
 * All I/O is direct. Every 8 bytes of a block depend on its tag and its number (rig/raid.py
 * computes the same), so that one wrong byte is noticed, parity of different blocks is different,
 * and a block at the wrong place is bad.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 4096
#define WORDS (BLOCK / 8)
#define AT_ONCE 48

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static uint64_t number(const char *text)
{
	char *rest;
	uint64_t value = strtoull(text, &rest, 0);

	if (!*text || *rest) {
		fprintf(stderr, "blocks: not a number: %s\n", text);
		exit(2);
	}
	return value;
}

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

static int write_one(const char *path, uint64_t tag, uint64_t block)
{
	uint64_t *words = memory(1);
	int fd = open_direct(path, O_WRONLY);
	ssize_t done;

	fill(words, tag, block);
	done = pwrite(fd, words, BLOCK, (off_t)(block * BLOCK));
	if (done == BLOCK)
		printf("%" PRIu64 " ok\n", block);
	else
		printf("%" PRIu64 " %d\n", block, done < 0 ? errno : EIO);
	fflush(stdout);
	return done != BLOCK;
}

static int write_each(const char *path, uint64_t tag, int count, char **blocks)
{
	int status, failed = 0;

	for (int i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (!child)
			_exit(write_one(path, tag, number(blocks[i])));
	}
	while (wait(&status) > 0)
		failed |= status != 0;
	return failed;
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
