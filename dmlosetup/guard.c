// SPDX-License-Identifier: GPL-2.0-only
/*
 * Undoes a half-done change when this process dies. A child in a session of
 * its own (so that neither ^C nor a kill of the process group reaches it)
 * waits on a socket: 'd' says that all is done, end of file that the parent is
 * gone. The kernel closes the socket only after the parent has left its last
 * ioctl, so the undo cannot overtake it. After a 'k' the parent must say so
 * again before the time is over: should it hang, the undo comes too. An 'a' is
 * answered, as long as the undo has not begun; so is an 'o', by which a file is
 * opened for writing until a 'c' or the undo, which a parent that hangs would not
 * close.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dmlosetup.h"

#define KEEP_MS		60000
#define MAX_FD		256

static char *cmdline;
static size_t cmdline_len;

/* Remembers where the command line is, for a guard to change its own. */
void guard_init(int argc, char **argv)
{
	cmdline = argv[0];
	cmdline_len = argv[argc - 1] + strlen(argv[argc - 1]) - argv[0];
}

/* Another name, so that killall or pkill -f dmlosetup takes the parent alone. */
static void take_name(void)
{
	static const char name[] = "dmloop-guard";

	prctl(PR_SET_NAME, name);
	memset(cmdline, 0, cmdline_len);
	memcpy(cmdline, name, sizeof(name) < cmdline_len ? sizeof(name) :
							   cmdline_len - 1);
}

/* Whoever reads our parent's output must not wait for us. */
static void close_output(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fd;

	for (fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
}

/*
 * A file that is open for writing here too could not be taken by the kernel,
 * whatever our parent does to its own descriptor.
 */
static void close_files(void)
{
	struct stat st;
	int fd;

	for (fd = 3; fd < MAX_FD; fd++) {
		if (!fstat(fd, &st) && S_ISREG(st.st_mode))
			close(fd);
	}
}

/* Returns true when all is done, false when the parent is gone or hangs. */
static bool wait_done(int fd, const char *path)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	int timeout = -1, file = -1;
	char byte = 0;
	int n;

	for (;;) {
		n = poll(&poll_fd, 1, timeout);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || read(fd, &byte, 1) != 1) {
			byte = 0;
			break;
		}
		if (byte == 'd')
			break;
		if (byte == 'o')
			file = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
		if (byte == 'c' && file >= 0) {
			close(file);
			file = -1;
		}
		if (byte != 'k' && write(fd, "a", 1) != 1) {
			byte = 0;
			break;
		}
		timeout = KEEP_MS;
	}
	if (file >= 0)
		close(file);
	return byte == 'd';
}

static void guard_run(const struct guard *g, int fd, void (*undo)(void *),
		      void *arg, bool lock)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	int sig;

	setsid();
	take_name();
	for (sig = 1; sig < NSIG; sig++)
		sigaction(sig, &ignore, NULL);
	close_output();
	close_files();
	/* nothing may have to be read from a device that is suspended */
	if (lock)
		mlockall(MCL_CURRENT | MCL_FUTURE);
	if (chdir("/") || write(fd, "r", 1) != 1)
		_exit(EXIT_FAILURE);
	if (!wait_done(fd, g->path))
		undo(arg);
	_exit(EXIT_SUCCESS);
}

/* The change is complete, or has been undone already. */
void guard_done(struct guard *g)
{
	if (g->fd < 0)
		return;
	if (write(g->fd, "d", 1) != 1)
		note("the guard process is gone");
	close(g->fd);
	while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
	g->fd = -1;
}

/* @lock: keep its memory, because a device will be suspended. */
int guard_start(struct guard *g, void (*undo)(void *), void *arg, bool lock)
{
	char ready;
	int fds[2];

	g->fd = -1;
	g->pid = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
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
		guard_run(g, fds[0], undo, arg, lock);
	}
	close(fds[0]);
	g->fd = fds[1];
	if (read(g->fd, &ready, 1) == 1)
		return 0;
	guard_done(g);
	return -ECHILD;
}

/*
 * Starts the time that the guard allows, or starts it again. Fails when the
 * guard is gone: then it has undone the change, or nobody would.
 */
int guard_keep(const struct guard *g)
{
	/* SIGPIPE is ignored */
	return write(g->fd, "k", 1) == 1 ? 0 : -ECHILD;
}

static int tell(const struct guard *g, const char *byte)
{
	char answer;

	return write(g->fd, byte, 1) == 1 && read(g->fd, &answer, 1) == 1 ?
	       0 : -ECHILD;
}

/* The same, and surely so: if this succeeds the undo has not begun before. */
int guard_ask(const struct guard *g)
{
	return tell(g, "a");
}

/*
 * The guard opens g->path for writing, if it can; until guard_close() or the
 * undo nobody can resume a device on that file.
 */
int guard_open(struct guard *g)
{
	g->has_file = true;
	return tell(g, "o");
}

void guard_close(struct guard *g)
{
	if (g->has_file)
		tell(g, "c");
	g->has_file = false;
}

static sigset_t held, before;
static unsigned int holds;

/* What ends or stops us waits until signals_release(). May be nested. */
void signals_hold(void)
{
	if (holds++)
		return;
	sigemptyset(&held);
	sigaddset(&held, SIGINT);
	sigaddset(&held, SIGTERM);
	sigaddset(&held, SIGHUP);
	sigaddset(&held, SIGQUIT);
	/* a device that is suspended must not stay so until fg */
	sigaddset(&held, SIGTSTP);
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
	if (--holds)
		return;
	sigprocmask(SIG_SETMASK, &before, NULL);
}
