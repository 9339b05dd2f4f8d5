// SPDX-License-Identifier: GPL-2.0-only
/*
 * Why the kernel refused a table. An ioctl gives an errno only; the words are
 * in the kernel log:
 *
 *	device-mapper: table: 253:0: loop: <why> (-EBUSY)
 *	dm-loop: <file>: <why> (-16)
 *
 * The second is looked for by the file, the first by the device number, so
 * that two commands at once do not read each other's words. Failing both, a
 * line of device-mapper that names neither is better than none.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dmlosetup.h"

/* Returns a descriptor that reads what is logged from now on, or -1. */
int kmsg_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && lseek(fd, 0, SEEK_END) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/*
 * A record is "<prio>,<seq>,<time>,<flags>;<text>\n <KEY=value>...", bytes
 * that are not plain ASCII as \xNN. Cuts @record down to the text itself.
 */
static char *record_text(char *record)
{
	char *text = strchr(record, ';');
	char *in, *out;

	if (!text)
		return NULL;
	text++;
	text[strcspn(text, "\n")] = '\0';
	for (in = text, out = text; *in; in++) {
		if (in[0] == '\\' && in[1] == 'x' && hex_digit(in[2]) >= 0 &&
		    hex_digit(in[3]) >= 0) {
			*out++ = hex_digit(in[2]) << 4 | hex_digit(in[3]);
			in += 3;
		} else {
			*out++ = *in;
		}
	}
	*out = '\0';
	return text;
}

/* "Too short (-28)" or "Too short (-ENOSPC)" -> "Too short" */
static char *without_errno(const char *why)
{
	char *copy = xstrdup(why);
	char *tail = strrchr(copy, '(');

	if (tail && tail > copy && tail[-1] == ' ' && tail[1] == '-')
		tail[-1] = '\0';
	return copy;
}

static const char *after(const char *text, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(text, prefix, len) ? NULL : text + len;
}

/* The last reason logged since kmsg_open(), or NULL; the caller frees it. */
char *kmsg_reason(int fd, unsigned int major, unsigned int minor,
		  const char *path)
{
	char *table, *file, *text, *reason = NULL;
	/* how well it is known to be ours: 1, 2 by the device, 3 by the file */
	int known = 0;
	const char *why, *rest;
	char record[8192];
	ssize_t len;
	int rank;

	if (fd < 0)
		return NULL;
	table = xasprintf("device-mapper: table: %u:%u: " TARGET_NAME ": ",
			  major, minor);
	file = xasprintf(MODULE_NAME ": %s: ", path);
	/* an error is EPIPE when the log wrapped: read on */
	for (;;) {
		len = read(fd, record, sizeof(record) - 1);
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			break;
		record[len] = '\0';
		text = record_text(record);
		if (!text)
			continue;
		rank = 3;
		why = after(text, file);
		if (!why) {
			rank = 2;
			why = after(text, table);
		}
		if (!why) {
			rank = 1;
			why = after(text, "device-mapper: ioctl: ");
		}
		if (why && rank >= known) {
			/* who asks says that in his own words */
			rest = after(why, "cannot resume: ");
			free(reason);
			reason = without_errno(rest ? rest : why);
			known = rank;
		}
	}
	free(table);
	free(file);
	return reason;
}
