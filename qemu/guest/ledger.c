// SPDX-License-Identifier: GPL-2.0
/*
 * ledger: a writer whose every record says who wrote it, in which epoch, as what number.
 *
 * usage: ledger raw CONTROLLER FIRST BLOCKS PAUSE-US NAME...
 *            direct writes, in turn to the mapped devices NAME..., in a ring of BLOCKS blocks on
 *            each; the records are numbered from FIRST
 *        ledger file CONTROLLER PAUSE-US NAME FILE
 *            appends to FILE with fdatasync; a record's number is its place in the file; NAME is
 *            a mapped device of the portion that the file system is on
 *        ledger list PATH...
 *            what is found in files or devices, read directly: one line per run of consecutive
 *            numbers, "<controller> <epoch> <first> <last>", and one line "bad <count>"
 *        ledger vote FROM TO DEVICE DEVICE DEVICE
 *            compares three copies between two byte offsets, block by block, and rewrites the one
 *            that differs from the two others: "differ <blocks> repaired <blocks> lost <blocks>"
 *
 * The epoch of a record is the one in which the writer's controller owned the portion when it
 * asked last: before the first write, and before every attempt that follows a failure. A writer
 * goes on after failures; that is when it becomes interesting. One line for each attempt:
 *
 *     <epoch> <number> <device> <block> ok|<errno> <raw ns before> <raw ns after>
 *
 * What stands behind "ok" was acknowledged and must never be lost. SIGTERM ends it between two
 * writes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

#define CHUNK (64 * BLOCK)
#define RETRY_US 50000
#define MAX_DEVICES 16

/* The first bytes of every record, little endian as the machine is. */
struct record {
	char magic[8];
	uint32_t controller;
	uint32_t crc; /* CRC-32 of the whole block with this field zero */
	uint64_t epoch;
	uint64_t number;
	uint64_t block; /* where it belongs: on the device, or in the file */
	uint64_t when_ns; /* CLOCK_MONOTONIC_RAW of the writer */
	uint32_t device; /* which of the devices */
	uint32_t zero;
};

/* Behind the part of a block that the store's log shows; what is not there compresses well. */
#define BODY 256

static const char magic[8] = { 'L', 'E', 'D', 'G', 'E', 'R', ' ', '1' };
static uint32_t crc_table[256];

static void make_crc_table(void)
{
	for (uint32_t n = 0; n < 256; n++) {
		uint32_t c = n;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
		crc_table[n] = c;
	}
}

/* The CRC-32 of zlib, so that any checker has it. */
static uint32_t crc32(const uint8_t *data, size_t length)
{
	uint32_t c = 0xffffffffu;

	while (length--)
		c = crc_table[(c ^ *data++) & 0xff] ^ (c >> 8);
	return ~c;
}

static void *blocks(size_t length)
{
	void *memory = aligned_alloc(BLOCK, length);

	if (!memory)
		fail("memory");
	memset(memory, 0, length);
	return memory;
}

/*
 * Whether this machine owns the portion of mapped device `name`; `epoch` becomes the highest epoch
 * it knows. The status line: <portion> <member> <role> <epoch> ...
 */
static int owns(const char *name, uint64_t *epoch)
{
	static int control = -1;
	union {
		struct dm_ioctl head;
		char room[4096];
	} io;
	struct dm_target_spec *spec;
	char role[24] = "";

	if (control < 0)
		control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		fail("/dev/mapper/control");
	memset(&io, 0, sizeof(io));
	io.head.version[0] = DM_VERSION_MAJOR;
	io.head.data_size = sizeof(io);
	io.head.data_start = sizeof(io.head);
	io.head.flags = DM_NOFLUSH_FLAG;
	strncpy(io.head.name, name, sizeof(io.head.name) - 1);
	if (ioctl(control, DM_TABLE_STATUS, &io) < 0)
		return 0;
	spec = (struct dm_target_spec *)(io.room + io.head.data_start);
	if (sscanf((char *)(spec + 1), "%*s %*s %23s %" SCNu64, role, epoch) != 2)
		return 0;
	return !strcmp(role, "owner");
}

static void fill(uint8_t *buffer, const struct record *record)
{
	struct record *head = (struct record *)buffer;
	uint64_t pattern = record->number * 0x9e3779b97f4a7c15u + record->epoch;

	memset(buffer, 0, BODY);
	*head = *record;
	for (size_t at = BODY; at < BLOCK; at += sizeof(pattern))
		memcpy(buffer + at, &pattern, sizeof(pattern));
	head->crc = 0;
	head->crc = crc32(buffer, BLOCK);
}

static void tell(const struct record *record, int error, uint64_t after_ns)
{
	printf("%" PRIu64 " %" PRIu64 " %u %" PRIu64 " ", record->epoch, record->number,
	       record->device, record->block);
	print_result(error, record->when_ns, after_ns);
}

/* Writes a block where it belongs and, for a file, makes it durable. Returns 0 or an errno. */
static int put(int fd, const uint8_t *buffer, uint64_t block, int is_file)
{
	ssize_t done = pwrite(fd, buffer, BLOCK, (off_t)(block * BLOCK));

	if (done != BLOCK)
		return done < 0 ? errno : EIO;
	if (is_file && fdatasync(fd))
		return errno;
	return 0;
}

static int write_raw(int argc, char **argv)
{
	struct record record = { .controller = (uint32_t)number(argv[0]) };
	uint64_t next = number(argv[1]), ring = number(argv[2]), pause_us = number(argv[3]);
	int devices = argc - 4, fds[MAX_DEVICES], owner = 0;
	uint8_t *buffer = blocks(BLOCK);
	char **names = argv + 4;

	if (devices > MAX_DEVICES || !ring)
		return 2;
	for (int i = 0; i < devices; i++) {
		char path[256];

		snprintf(path, sizeof(path), "/dev/mapper/%s", names[i]);
		fds[i] = open(path, O_WRONLY | O_DIRECT);
		if (fds[i] < 0)
			fail(path);
	}
	memcpy(record.magic, magic, sizeof(magic));
	listen_for_end();
	/* A number that failed is not used again: whether it landed is not known. */
	for (uint64_t turn = 0; !ended; turn++, next++) {
		int error;

		if (!owner)
			owner = owns(names[0], &record.epoch);
		record.number = next;
		record.device = (uint32_t)(turn % (uint64_t)devices);
		record.block = turn / (uint64_t)devices % ring;
		record.when_ns = now_ns();
		fill(buffer, &record);
		error = put(fds[record.device], buffer, record.block, 0);
		tell(&record, error, now_ns());
		if (error)
			owner = 0;
		usleep((useconds_t)(error ? RETRY_US : pause_us));
	}
	return 0;
}

static int write_file(char **argv)
{
	struct record record = { .controller = (uint32_t)number(argv[0]) };
	uint64_t pause_us = number(argv[1]);
	uint8_t *buffer = blocks(BLOCK);
	int fd = open(argv[3], O_WRONLY | O_CREAT, 0644), owner = 0;
	struct stat stat;

	if (fd < 0 || fstat(fd, &stat))
		fail(argv[3]);
	memcpy(record.magic, magic, sizeof(magic));
	/* A last record that is cut short was never acknowledged. */
	record.number = (uint64_t)stat.st_size / BLOCK;
	listen_for_end();
	while (!ended) {
		int error;

		if (!owner)
			owner = owns(argv[2], &record.epoch);
		record.block = record.number;
		record.when_ns = now_ns();
		fill(buffer, &record);
		error = put(fd, buffer, record.block, 1);
		tell(&record, error, now_ns());
		if (error)
			owner = 0;
		else
			record.number++;
		usleep((useconds_t)(error ? RETRY_US : pause_us));
	}
	return 0;
}

/* 1 for a sound record, -1 for one that is not, 0 for anything else. */
static int judge(uint8_t *block, struct record *record)
{
	struct record *head = (struct record *)block;

	*record = *head;
	if (memcmp(record->magic, magic, sizeof(magic)))
		return 0;
	head->crc = 0;
	return crc32(block, BLOCK) == record->crc ? 1 : -1;
}

static void list_run(const struct record *first, uint64_t last)
{
	if (first->controller)
		printf("%u %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", first->controller, first->epoch,
		       first->number, last);
}

static int list(int paths, char **argv)
{
	uint8_t *buffer = blocks(CHUNK);
	struct record first = { 0 }, record;
	uint64_t bad = 0, last = 0;

	for (int i = 0; i < paths; i++) {
		int fd = open(argv[i], O_RDONLY | O_DIRECT);
		ssize_t got;

		if (fd < 0)
			fail(argv[i]);
		while ((got = read(fd, buffer, CHUNK)) > 0) {
			for (ssize_t at = 0; at + BLOCK <= got; at += BLOCK) {
				int found = judge(buffer + at, &record);

				bad += found < 0;
				if (found <= 0)
					continue;
				if (record.controller != first.controller ||
				    record.epoch != first.epoch || record.number != last + 1) {
					list_run(&first, last);
					first = record;
				}
				last = record.number;
			}
		}
		if (got < 0)
			fail(argv[i]);
		close(fd);
	}
	list_run(&first, last);
	printf("bad %" PRIu64 "\n", bad);
	return 0;
}

static int vote(uint64_t from, uint64_t to, char **argv)
{
	uint64_t differ = 0, repaired = 0, lost = 0;
	uint8_t *copies[3];
	int fds[3];

	for (int i = 0; i < 3; i++) {
		copies[i] = blocks(CHUNK);
		fds[i] = open(argv[i], O_RDWR | O_DIRECT | O_SYNC);
		if (fds[i] < 0)
			fail(argv[i]);
	}
	for (uint64_t at = from; at < to; at += CHUNK) {
		size_t length = to - at < CHUNK ? to - at : CHUNK;

		for (int i = 0; i < 3; i++) {
			if (pread(fds[i], copies[i], length, (off_t)at) != (ssize_t)length)
				fail(argv[i]);
		}
		for (size_t b = 0; b + BLOCK <= length; b += BLOCK) {
			int same01 = !memcmp(copies[0] + b, copies[1] + b, BLOCK);
			int same02 = !memcmp(copies[0] + b, copies[2] + b, BLOCK);
			int same12 = !memcmp(copies[1] + b, copies[2] + b, BLOCK);
			int odd = same12 ? 0 : same02 ? 1 : 2;

			if (same01 && same02)
				continue;
			differ++;
			if (!same01 && !same02 && !same12) {
				lost++;
				continue;
			}
			if (pwrite(fds[odd], copies[(odd + 1) % 3] + b, BLOCK, (off_t)(at + b)) != BLOCK)
				fail(argv[odd]);
			repaired++;
		}
	}
	printf("differ %" PRIu64 " repaired %" PRIu64 " lost %" PRIu64 "\n", differ, repaired, lost);
	return lost != 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	make_crc_table();
	if (!strcmp(what, "raw") && argc > 6)
		return write_raw(argc - 2, argv + 2);
	if (!strcmp(what, "file") && argc == 6)
		return write_file(argv + 2);
	if (!strcmp(what, "list") && argc > 2)
		return list(argc - 2, argv + 2);
	if (!strcmp(what, "vote") && argc == 7)
		return vote(number(argv[2]), number(argv[3]), argv + 4);
	fprintf(stderr, "usage: ledger raw|file|list|vote ... (see the source)\n");
	return 2;
}
