/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Just enough of the Test Anything Protocol, version 13.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <linux/compiler.h>

static int tap_nr, tap_failed;

__printf(2, 3) __maybe_unused
static bool tap_ok(bool pass, const char *fmt, ...)
{
	va_list args;

	tap_failed += !pass;
	printf("%sok %d - ", pass ? "" : "not ", ++tap_nr);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	return pass;
}

__printf(1, 2) __maybe_unused
static void tap_diag(const char *fmt, ...)
{
	va_list args;

	printf("# ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* Also says that the test came to its end: without a plan prove fails it. */
static __maybe_unused int tap_done(void)
{
	printf("1..%d\n", tap_nr);
	return tap_failed != 0;
}

/* A number from the environment. */
static __maybe_unused unsigned long long tap_env(const char *name, unsigned long long def)
{
	const char *s = getenv(name);

	return s && *s ? strtoull(s, NULL, 0) : def;
}

#endif /* TAP_H */
