// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is said to people: one sentence on standard error, file names made
 * printable, and what to do about an errno of a table load.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dmlosetup.h"

bool verbose;

/* what was said while it could not be written */
static char *kept;

static void say(const char *fmt, va_list ap, const char *tail)
{
	char *text = NULL, *longer;

	if (vasprintf(&text, fmt, ap) < 0)
		return;
	longer = xasprintf("%sdmlosetup: %s%s%s\n", kept ? kept : "", text,
			   tail ? ": " : "", tail ? tail : "");
	free(text);
	if (kept) {
		free(kept);
		kept = longer;
		return;
	}
	fflush(stdout);
	fputs(longer, stderr);
	free(longer);
}

/*
 * While a device is suspended nothing is written: standard error may be a
 * file on that very device.
 */
void messages_keep(void)
{
	if (!kept)
		kept = xstrdup("");
}

void messages_show(void)
{
	if (!kept)
		return;
	fflush(stdout);
	fputs(kept, stderr);
	free(kept);
	kept = NULL;
}

void complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap, NULL);
	va_end(ap);
}

/* What was done stays done when this cannot be told. */
void flush_report(void)
{
	if (fflush(stdout))
		complain("done, but standard output cannot be written: %s",
			 strerror(errno));
}

void complain_errno(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap, strerror(-err));
	va_end(ap);
}

/* Only with --verbose. */
void note(const char *fmt, ...)
{
	va_list ap;

	if (!verbose)
		return;
	va_start(ap, fmt);
	say(fmt, ap, NULL);
	va_end(ap);
}

/*
 * A file name may hold a newline or an escape sequence; neither may reach a
 * terminal or break a line that a script reads. The result stays valid for
 * the next three calls.
 */
const char *shown(const char *s)
{
	static char *ring[4];
	static unsigned int turn;
	char **slot = &ring[turn++ % ARRAY_SIZE(ring)];
	char *out;

	free(*slot);
	*slot = xcalloc(4 * strlen(s) + 1, 1);
	for (out = *slot; *s; s++) {
		unsigned char c = *s;

		if (c < 0x20 || c == 0x7f || (c == '\\' && s[1] == 'x'))
			out += sprintf(out, "\\x%02x", c);
		else
			*out++ = c;
	}
	return *slot;
}

/* 1536 -> "1.5 KiB"; valid for the next three calls. */
const char *human(uint64_t bytes)
{
	static char ring[4][32];
	static unsigned int turn;
	static const char units[] = " KMGTPE";
	char *out = ring[turn++ % ARRAY_SIZE(ring)];
	uint64_t unit = 1;
	unsigned int i = 0;

	while (bytes / unit >= 1024 && units[i + 1]) {
		unit *= 1024;
		i++;
	}
	if (!i)
		snprintf(out, sizeof(ring[0]), "%llu bytes",
			 (unsigned long long)bytes);
	else
		snprintf(out, sizeof(ring[0]), "%.4g %ciB",
			 (double)bytes / (double)unit, units[i]);
	return out;
}

static void *checked(void *p)
{
	if (!p) {
		complain("out of memory");
		exit(EXIT_FAILURE);
	}
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	return checked(calloc(n, size));
}

/* Zeroes, for direct I/O whatever the disk's sectors are. */
void *xaligned(size_t size)
{
	void *p;

	if (posix_memalign(&p, 65536, size))
		p = NULL;
	return memset(checked(p), 0, size);
}

char *xstrdup(const char *s)
{
	return checked(strdup(s));
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return checked(s);
}

/*
 * What to do when a table was refused; NULL if the reason says it all. @known:
 * the kernel's own reason is shown too.
 */
const char *load_advice(int err, bool known)
{
	switch (err) {
	case -ETXTBSY:
		return "close what has it open for writing (see fuser -v)";
	case -EBUSY:
		return "see dmlosetup -j, losetup -j and swapon for who uses it";
	case -EROFS:
	case -EACCES:
		return "attach it read-only with -r";
	case -EPERM:
		return "run it as root";
	}
	if (known)
		return NULL;
	switch (err) {
	case -EOPNOTSUPP:
		return "try dmlosetup --prepare on it, or attach it read-only with -r";
	case -ENOSPC:
		return "check --offset and --sizelimit";
	default:
		return "see dmesg for the kernel's words";
	}
}
