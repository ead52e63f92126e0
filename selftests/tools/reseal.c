// SPDX-License-Identifier: GPL-2.0
/*
 * reseal: changes bytes of the superblock of a member, and its checksum with them.
 *
 * usage: reseal DEVICE [OFFSET=HEX]...
 *
 * HEX are the bytes to write at OFFSET of the superblock, in order. The new superblock has a valid
 * checksum, so that a test can reach every check behind it. This implementation of the checksum is
 * independent of the module on purpose: CRC-32C over the whole block of 4096 bytes, with zeroes in
 * the place of the checksum, at byte 16.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define CHECKSUM 16

static unsigned char block[BLOCK] __attribute__((aligned(BLOCK)));

static uint32_t crc32c(const unsigned char *data, size_t size)
{
	uint32_t crc = ~0u;

	while (size--) {
		crc ^= *data++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

/* Applies a change; returns 0 if the word is not a change. */
static int change(char *word)
{
	char *hex;
	unsigned long at = strtoul(word, &hex, 0);

	if (*hex++ != '=')
		return 0;
	for (; hex[0] && hex[1]; hex += 2, at++) {
		char byte[3] = { hex[0], hex[1], 0 };

		if (at >= BLOCK)
			return 0;
		block[at] = strtoul(byte, NULL, 16);
	}
	return !hex[0];
}

static void seal(void)
{
	uint32_t crc;

	memset(block + CHECKSUM, 0, 4);
	crc = crc32c(block, BLOCK);
	for (int i = 0; i < 4; i++)
		block[CHECKSUM + i] = crc >> 8 * i;
}

int main(int argc, char **argv)
{
	int fd = argc < 2 ? -1 : open(argv[1], O_RDWR | O_DIRECT);

	if (fd < 0 || pread(fd, block, BLOCK, BLOCK) != BLOCK) {
		perror("reseal");
		return 1;
	}
	for (int i = 2; i < argc; i++) {
		if (!change(argv[i])) {
			fprintf(stderr, "reseal: cannot read %s\n", argv[i]);
			return 1;
		}
	}
	seal();
	if (pwrite(fd, block, BLOCK, BLOCK) != BLOCK || fsync(fd)) {
		perror("reseal");
		return 1;
	}
	return 0;
}
