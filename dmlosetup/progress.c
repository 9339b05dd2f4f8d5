// SPDX-License-Identifier: GPL-2.0-only
/*
 * A bar on the terminal; nothing where standard error is not one. Nor where writing
 * would wait: a device may be suspended, and what reads the terminal wait for it.
 */
#include <poll.h>
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

static bool takes_more(void)
{
	struct pollfd fd = { .fd = STDERR_FILENO, .events = POLLOUT };

	return poll(&fd, 1, 0) == 1 && fd.revents == POLLOUT;
}

static void draw(struct progress *p)
{
	double part = p->total ? (double)p->done / (double)p->total : 1;
	double seconds = (double)(now_ns() - p->started) / 1e9;
	char bar[WIDTH + 1];
	int full;

	p->drawn = now_ns();
	if (!takes_more())
		return;
	if (part > 1)
		part = 1;
	full = (int)(part * WIDTH);
	memset(bar, '#', full);
	memset(bar + full, '.', WIDTH - full);
	bar[WIDTH] = '\0';
	fprintf(stderr, "\r%s [%s] %3d%%  %s of %s", p->what, bar,
		(int)(part * 100), human(p->done), human(p->total));
	if (seconds > 0.5)
		fprintf(stderr, ", %s/s", human((uint64_t)((double)p->done / seconds)));
	/* what a longer line left */
	fputs("\033[K", stderr);
	fflush(stderr);
}

void progress_start(struct progress *p, const char *what, uint64_t total)
{
	memset(p, 0, sizeof(*p));
	p->what = what;
	p->total = total;
	p->tty = isatty(STDERR_FILENO);
	p->started = now_ns();
	if (p->tty)
		draw(p);
}

void progress_add(struct progress *p, uint64_t bytes)
{
	p->done += bytes;
	if (p->tty && now_ns() - p->drawn >= REDRAW_NS)
		draw(p);
}

void progress_end(struct progress *p)
{
	if (!p->tty)
		return;
	draw(p);
	if (takes_more())
		fputc('\n', stderr);
	p->tty = false;
}
