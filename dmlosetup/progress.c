// SPDX-License-Identifier: GPL-2.0-only
/*
 * A bar on the terminal; nothing where standard error is not one. Writing never
 * waits: a device may be suspended, and what reads the terminal wait for it.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"

#define WIDTH		30
#define REDRAW_NS	100000000ULL

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void draw(struct progress *p)
{
	double part = p->total ? (double)p->done / (double)p->total : 1;
	double seconds = (double)(now_ns() - p->started) / 1e9;
	char bar[WIDTH + 1], rate[48] = "";
	int full;

	p->drawn = now_ns();
	if (part > 1)
		part = 1;
	full = (int)(part * WIDTH);
	memset(bar, '#', full);
	memset(bar + full, '.', WIDTH - full);
	bar[WIDTH] = '\0';
	if (seconds > 0.5)
		snprintf(rate, sizeof(rate), ", %s/s",
			 human((uint64_t)((double)p->done / seconds)));
	/* at once, and without what a longer line left */
	dprintf(p->tty, "\r%s [%s] %3d%%  %s of %s%s\033[K", p->what, bar,
		(int)(part * 100), human(p->done), human(p->total), rate);
}

/* Opened anew: not to wait is for this one alone. */
static int open_tty(void)
{
	return isatty(STDERR_FILENO) ?
	       open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) :
	       -1;
}

void progress_start(struct progress *p, const char *what, uint64_t total)
{
	memset(p, 0, sizeof(*p));
	p->what = what;
	p->total = total;
	p->tty = open_tty();
	p->started = now_ns();
	if (p->tty >= 0)
		draw(p);
}

void progress_add(struct progress *p, uint64_t bytes)
{
	p->done += bytes;
	if (p->tty >= 0 && now_ns() - p->drawn >= REDRAW_NS)
		draw(p);
}

void progress_end(struct progress *p)
{
	if (p->tty < 0)
		return;
	draw(p);
	dprintf(p->tty, "\n");
	close(p->tty);
	p->tty = -1;
}
