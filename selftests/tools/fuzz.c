// SPDX-License-Identifier: GPL-2.0
/*
 * fuzz: sends thousands of mutated table lines and messages to the target, or flips bits on a member.
 *
 * usage: fuzz tables NAME RUNS SEED LENGTH LINE...
 *        fuzz messages NAME RUNS SEED MESSAGE...
 *        fuzz superblock NAME RUNS SEED LENGTH LINE DEVICE
 *        fuzz mailbox NAME RUNS SEED OFFSET DEVICE
 *
 * tables     creates the device NAME and loads tables of the target lease into it. The lines (the
 *            text behind the target's name) are mutants of the LINEs. If a line is accepted, the
 *            target must print a line that is accepted, too, and prints the same again. No table is
 *            resumed, and each one is cleared.
 * messages   sends mutants of the MESSAGEs to the device NAME, whose epoch must never decrease.
 * superblock flips single bits of the superblock of DEVICE, which LINE maps, and tries to load the
 *            line into NAME, which must be refused. The warning of the module is announced in the log.
 * mailbox    flips single bits of the mailbox that begins at byte OFFSET of DEVICE. It belongs to
 *            another controller than the live device NAME, which must stay owner in its epoch and
 *            extend its lease after it has read each flip.
 *
 * The program uses the ioctls of device-mapper itself, because each start of dmsetup takes longer
 * under emulation than everything else. The same SEED makes the same mutants. The first failure ends
 * the run and is printed with the number of the mutant. exit: 0 no failure, 1 a failure, 2 misuse.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define LINE_MAX_LENGTH 1024
#define WORDS 256
#define SUPERBLOCK_AT BLOCK
#define MAILBOX_BLOCKS 4

static int control;
static long number;

/* Prints the failure of the present mutant with its number, and ends. */
static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *format, ...)
{
	va_list list;

	printf("# number %ld: ", number);
	va_start(list, format);
	vprintf(format, list);
	va_end(list);
	puts("");
	exit(1);
}

/* Returns a printable form of a line that may contain any byte. */
static const char *shown(const char *line)
{
	static char text[4 * LINE_MAX_LENGTH + 1];
	char *out = text;

	for (; *line && out < text + sizeof(text) - 5; line++) {
		if (isprint((unsigned char)*line))
			*out++ = *line;
		else
			out += sprintf(out, "\\x%02x", (unsigned char)*line);
	}
	*out = 0;
	return text;
}

/* --- Random numbers: xorshift64, the same on every machine. --- */

static uint64_t state;

static void begin(const char *seed)
{
	state = strtoull(seed, NULL, 0) * 0x9e3779b97f4a7c15 + 1;
	if (!state)
		state = 1;
}

static unsigned int below(unsigned int bound)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 16) % bound;
}

/* --- Mutation. --- */

static const char *edges[] = {
	"0", "1", "2", "13", "14", "16", "17", "64", "65", "60000", "60001", "65535", "65536",
	"600000", "600001", "4294967296", "18446744073709551615", "18446744073709551616", "-1",
	"force", "\\", "\\\\", "%s%n", "\xff", "lease",
};

static char *pool[WORDS];
static int pooled;

/* Mutants consist of the words of all lines, and of numbers at the limits of ranges. */
static void collect(int lines, char **line)
{
	for (unsigned int i = 0; i < sizeof(edges) / sizeof(*edges); i++)
		pool[pooled++] = strdup(edges[i]);
	for (int i = 0; i < lines; i++) {
		char *copy = strdup(line[i]), *rest = copy, *word;

		while ((word = strsep(&rest, " ")) && pooled < WORDS)
			pool[pooled++] = word;
	}
}

/* Replaces `length` bytes at `at` by `with`. */
static void replace(char *line, size_t at, size_t length, const char *with)
{
	char *after;

	if (asprintf(&after, "%.*s%s%s", (int)at, line, with, line + at + length) < 0)
		fail("no memory");
	strlcpy(line, after, LINE_MAX_LENGTH);
	free(after);
}

static void mutate(char *line)
{
	size_t length = strlen(line), at = length ? below(length) : 0, word = at, end = at;
	char byte[] = { 1 + below(255), 0 }, twice[] = { line[at], line[at], 0 };
	char other[LINE_MAX_LENGTH];

	while (word && line[word - 1] != ' ')
		word--;
	while (line[end] && line[end] != ' ')
		end++;
	strlcpy(other, pool[below(pooled)], sizeof(other));
	switch (below(8)) {
	case 0:
		replace(line, at, length ? 1 : 0, byte);
		break;
	case 1:
		replace(line, at, length ? 1 : 0, "");
		break;
	case 2:
		replace(line, at, length ? 1 : 0, twice);
		break;
	case 3:
		line[at] = 0;
		break;
	case 4:
		replace(line, word, end - word, "");
		break;
	case 5:
		strlcat(other, " ", sizeof(other));
		replace(line, word, 0, other);
		break;
	default:
		replace(line, word, end - word, other);
	}
}

/* Returns a mutant of one of the lines; one in `whole` lines is not changed. */
static const char *mutant(int lines, char **line, unsigned int whole)
{
	static char text[LINE_MAX_LENGTH];

	strlcpy(text, line[below(lines)], sizeof(text));
	if (below(whole)) {
		for (int count = 1 + below(4); count; count--)
			mutate(text);
	}
	return text;
}

/* --- Device-mapper. --- */

static struct {
	struct dm_ioctl head;
	/* The data behind the header; head.data is too short for it. */
	char data[4096];
} request;

static void prepare(const char *name, unsigned int flags)
{
	memset(&request, 0, sizeof(request));
	request.head.version[0] = 4;
	request.head.data_size = sizeof(request);
	request.head.data_start = (char *)request.data - (char *)&request;
	request.head.flags = flags;
	strlcpy(request.head.name, name, sizeof(request.head.name));
}

/* Returns 0 or the errno. */
static int call(unsigned long command)
{
	return ioctl(control, command, &request) ? errno : 0;
}

static int load(const char *name, uint64_t length, const char *line)
{
	struct dm_target_spec *spec = (void *)request.data;

	prepare(name, 0);
	request.head.target_count = 1;
	spec->length = length;
	strcpy(spec->target_type, "lease");
	strcpy((char *)(spec + 1), line);
	spec->next = sizeof(*spec) + ((strlen(line) + 8) & ~7ul);
	return call(DM_TABLE_LOAD);
}

static void clear(const char *name)
{
	prepare(name, 0);
	if (call(DM_TABLE_CLEAR))
		fail("the table cannot be cleared: %m");
}

/* Returns the table line or the status that the target prints, as `flags` say. */
static const char *print(const char *name, unsigned int flags)
{
	struct dm_target_spec *spec = (void *)request.data;

	prepare(name, flags);
	if (call(DM_TABLE_STATUS))
		fail("no status: %m");
	if (request.head.target_count != 1)
		fail("%u targets instead of one", request.head.target_count);
	return (char *)(spec + 1);
}

/* Errors that the target and dm core may return. Any other error is a failure. */
static const int refusals[] = {
	EINVAL, EPERM, ERANGE, EBUSY, ETIMEDOUT, EIO, ENOENT, ENODEV, ENXIO, ENOTBLK, ENOTDIR, EISDIR,
	EACCES, ELOOP, ENAMETOOLONG,
};

static int counts[256], accepted;

static void count(int error, const char *line)
{
	int known = !error;

	for (unsigned int i = 0; i < sizeof(refusals) / sizeof(*refusals); i++)
		known |= error == refusals[i];
	if (!known)
		fail("%s: '%s'", strerrorname_np(error), shown(line));
	accepted += !error;
	counts[error]++;
}

static void report(const char *what)
{
	printf("# %ld %s, %d accepted", number, what, accepted);
	for (int error = 1; error < 256; error++)
		if (counts[error])
			printf(", %s %d", strerrorname_np(error), counts[error]);
	puts("");
}

static void check_printed_table(const char *name, uint64_t length, const char *line)
{
	const unsigned int flags = DM_STATUS_TABLE_FLAG | DM_QUERY_INACTIVE_TABLE_FLAG;
	char given[LINE_MAX_LENGTH], printed[LINE_MAX_LENGTH];
	int error;

	strlcpy(given, line, sizeof(given));
	strlcpy(printed, print(name, flags), sizeof(printed));
	error = load(name, length, printed);
	if (error)
		fail("'%s' prints as '%s': %s", shown(given), printed, strerrorname_np(error));
	if (strcmp(print(name, flags), printed))
		fail("'%s' prints as '%s', and that as another", shown(given), printed);
	clear(name);
}

static int tables(const char *name, long runs, uint64_t length, int lines, char **line)
{
	collect(lines, line);
	prepare(name, 0);
	if (call(DM_DEV_CREATE))
		fail("no device: %m");
	for (number = 0; number < runs; number++) {
		/* Each accepted table creates a session, so few lines are left unchanged. */
		const char *text = mutant(lines, line, 32);
		uint64_t size = below(64) ? length : below(2) ? length + 8 : below(1 << 20);
		int error = load(name, size, text);

		count(error, text);
		if (!error)
			check_printed_table(name, size, text);
	}
	prepare(name, 0);
	if (call(DM_DEV_REMOVE))
		fail("the device cannot be removed: %m");
	report("tables");
	return 0;
}

/* <portion> <member>/<members> <role> <epoch> <owner> <lease_ms_left> ... */
struct status {
	char role[16];
	unsigned long long epoch;
	long owner;
	/* Bounds of the time at which the lease ends, in milliseconds. */
	long earliest, latest;
};

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct status status_of(const char *name)
{
	struct status status = { .earliest = now_ms() };
	const char *line = print(name, DM_NOFLUSH_FLAG);
	char epoch[24], owner[24], left[24];

	status.latest = now_ms() + 1;
	if (sscanf(line, "%*s %*d/%*d %15s %23s %23s %23s", status.role, epoch, owner, left) != 4)
		fail("status '%s'", shown(line));
	/* A dash is 0. */
	status.epoch = strtoull(epoch, NULL, 10);
	status.owner = strtol(owner, NULL, 10);
	status.earliest += strtol(left, NULL, 10);
	status.latest += strtol(left, NULL, 10);
	return status;
}

static int messages(const char *name, long runs, int lines, char **line)
{
	struct dm_target_msg *message = (void *)request.data;
	unsigned long long epoch = 0;

	collect(lines, line);
	for (number = 0; number < runs; number++) {
		const char *text = mutant(lines, line, 8);
		struct status status;

		prepare(name, 0);
		strcpy(message->message, text);
		count(call(DM_TARGET_MSG), text);
		status = status_of(name);
		if (status.epoch < epoch)
			fail("epoch %llu after %llu: '%s'", status.epoch, epoch, shown(text));
		epoch = status.epoch;
	}
	report("messages");
	return 0;
}

/* --- Flipped bits. --- */

static unsigned char block[BLOCK] __attribute__((aligned(BLOCK)));

static void put(int fd, uint64_t at)
{
	if (pwrite(fd, block, BLOCK, at) != BLOCK)
		fail("write at %llu: %m", (unsigned long long)at);
}

/* Half of the flips are in the first 620 bytes, which records use. */
static unsigned int some_bit(void)
{
	return below(2) ? below(8 * BLOCK) : below(8 * 620);
}

static int open_member(const char *path)
{
	int fd = open(path, O_RDWR | O_DIRECT);

	if (fd < 0)
		fail("%s: %m", path);
	return fd;
}

/* Reads the block at `at` and writes it with one bit flipped. */
static unsigned int flip(int fd, uint64_t at)
{
	unsigned int bit = some_bit();

	if (pread(fd, block, BLOCK, at) != BLOCK)
		fail("read at %llu: %m", (unsigned long long)at);
	block[bit / 8] ^= 1 << bit % 8;
	put(fd, at);
	return bit;
}

static void put_back(int fd, uint64_t at, unsigned int bit)
{
	block[bit / 8] ^= 1 << bit % 8;
	put(fd, at);
}

static int superblock(const char *name, long runs, uint64_t length, const char *line,
		      const char *device)
{
	int fd = open_member(device), error;
	FILE *log = fopen("/dev/kmsg", "w");

	if (!log)
		fail("no log: %m");
	setlinebuf(log);
	prepare(name, 0);
	if (call(DM_DEV_CREATE))
		fail("no device: %m");
	for (number = 0; number < runs; number++) {
		unsigned int bit = flip(fd, SUPERBLOCK_AT);

		fprintf(log, "dm-lease selftest %d: provokes %s\n", getpid(), bit < 64 ?
			"no superblock: wrong magic" : "superblock checksum mismatch");
		error = load(name, length, line);
		put_back(fd, SUPERBLOCK_AT, bit);
		if (error != EINVAL)
			fail("bit %u: %s", bit, error ? strerrorname_np(error) : "accepted");
	}
	error = load(name, length, line);
	if (error)
		fail("the restored superblock is refused: %s", strerrorname_np(error));
	prepare(name, 0);
	if (call(DM_DEV_REMOVE))
		fail("the device cannot be removed: %m");
	printf("# %ld bits of the superblock flipped, all refused\n", number);
	return 0;
}

/* Waits until a heartbeat has extended the lease. */
static struct status extended(const char *name, struct status before, const char *what)
{
	struct status now;

	do {
		usleep(1000);
		now = status_of(name);
		if (strcmp(now.role, "owner") || now.epoch != before.epoch ||
		    now.owner != before.owner)
			fail("%s: %s, epoch %llu of %ld", what, now.role, now.epoch, now.owner);
	} while (now.earliest <= before.latest);
	return now;
}

static int mailbox(const char *name, long runs, uint64_t offset, const char *device)
{
	struct status now = status_of(name);
	int fd = open_member(device);
	char what[64];

	for (number = 0; number < runs; number++) {
		uint64_t at = offset + below(MAILBOX_BLOCKS) * BLOCK;
		unsigned int bit = flip(fd, at);

		snprintf(what, sizeof(what), "bit %u of the block at %llu", bit,
			 (unsigned long long)at);
		now = status_of(name);
		/* The first heartbeat may have read before the flip; the second one began later. */
		extended(name, extended(name, now, what), what);
		put_back(fd, at, bit);
	}
	printf("# %ld bits of the mailbox flipped, still owner in epoch %llu\n", number, now.epoch);
	return 0;
}

static int usage(void)
{
	fputs("usage: fuzz tables NAME RUNS SEED LENGTH LINE...\n"
	      "       fuzz messages NAME RUNS SEED MESSAGE...\n"
	      "       fuzz superblock NAME RUNS SEED LENGTH LINE DEVICE\n"
	      "       fuzz mailbox NAME RUNS SEED OFFSET DEVICE\n", stderr);
	return 2;
}

int main(int argc, char **argv)
{
	long runs;

	if (argc < 6)
		return usage();
	runs = atol(argv[3]);
	begin(argv[4]);
	control = open("/dev/mapper/control", O_RDWR);
	if (control < 0)
		fail("no device-mapper: %m");
	if (!strcmp(argv[1], "tables") && argc > 6)
		return tables(argv[2], runs, strtoull(argv[5], NULL, 0), argc - 6, argv + 6);
	if (!strcmp(argv[1], "messages"))
		return messages(argv[2], runs, argc - 5, argv + 5);
	if (!strcmp(argv[1], "superblock") && argc == 8)
		return superblock(argv[2], runs, strtoull(argv[5], NULL, 0), argv[6], argv[7]);
	if (!strcmp(argv[1], "mailbox") && argc == 7)
		return mailbox(argv[2], runs, strtoull(argv[5], NULL, 0), argv[6]);
	return usage();
}
