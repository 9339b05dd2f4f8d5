// SPDX-License-Identifier: GPL-2.0-only
/*
 * Undoes a half-done change when this process dies. A child in a session of
 * its own (so that neither ^C nor a kill of the process group reaches it)
 * waits on a pipe: a byte says that all is done, end of file that the parent
 * is gone. The kernel closes the pipe only after the parent has left its last
 * ioctl, so the undo cannot overtake it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dmlosetup.h"

static void guard_run(int fd, void (*undo)(void *), void *arg)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	ssize_t n;
	char byte;
	int sig;

	setsid();
	/* another name, so that killall dmlosetup takes the parent alone */
	prctl(PR_SET_NAME, "dmloop-guard");
	for (sig = 1; sig < NSIG; sig++)
		sigaction(sig, &ignore, NULL);
	/* whoever reads our parent's output must not wait for us */
	for (sig = 0; sig < 3; sig++) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		if (null >= 0)
			dup2(null, sig);
		if (null > 2)
			close(null);
	}
	if (chdir("/"))
		_exit(EXIT_FAILURE);
	do {
		n = read(fd, &byte, 1);
	} while (n < 0 && errno == EINTR);
	if (n != 1)
		undo(arg);
	_exit(EXIT_SUCCESS);
}

int guard_start(struct guard *g, void (*undo)(void *), void *arg)
{
	int fds[2];

	g->fd = -1;
	g->pid = -1;
	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	g->pid = fork();
	if (g->pid < 0) {
		int err = -errno;

		close(fds[0]);
		close(fds[1]);
		return err;
	}
	if (!g->pid) {
		close(fds[1]);
		guard_run(fds[0], undo, arg);
	}
	close(fds[0]);
	g->fd = fds[1];
	return 0;
}

/* The change is complete, or has been undone already. */
void guard_done(struct guard *g)
{
	if (g->fd < 0)
		return;
	/* SIGPIPE is ignored: the guard may have been killed */
	if (write(g->fd, "d", 1) != 1)
		note("the guard process is gone");
	close(g->fd);
	while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
	g->fd = -1;
}

static sigset_t held, before;

/* Terminating signals wait until signals_release(). */
void signals_hold(void)
{
	sigemptyset(&held);
	sigaddset(&held, SIGINT);
	sigaddset(&held, SIGTERM);
	sigaddset(&held, SIGHUP);
	sigaddset(&held, SIGQUIT);
	sigprocmask(SIG_BLOCK, &held, &before);
}

bool signals_pending(void)
{
	sigset_t pending;

	return !sigpending(&pending) &&
	       (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
		sigismember(&pending, SIGHUP) || sigismember(&pending, SIGQUIT));
}

void signals_release(void)
{
	sigprocmask(SIG_SETMASK, &before, NULL);
}
