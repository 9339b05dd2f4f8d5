// SPDX-License-Identifier: GPL-2.0-only
/*
 * Undoes a half-done change when this process dies. A child in a session of
 * its own (so that neither ^C nor a kill of the process group reaches it)
 * waits on a socket: 'd' says that all is done, end of file that the parent is
 * gone. The kernel closes the socket only after the parent has left its last
 * ioctl, so the undo cannot overtake it. After a 'k' the parent must say so
 * again before the time is over: should it hang, it is killed, as it may have open
 * for writing what the kernel is to take, and could go on while it is undone. An
 * 'a' is answered, as long as the undo has not begun; so is an 'o', by which a file
 * is opened for writing until a 'c' or the undo. A 'c' says, too, that the parent
 * resumes the device, for as long as that takes: to kill it then would help nobody.
 */
#include <dirent.h>
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
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"

#define KEEP_MS		60000
/* A parent that is killed may still wait for a disk. */
#define DIE_MS		5000

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
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	struct stat st;
	int fd;

	/* those that are locked are open for reading */
	while (dir && (entry = readdir(dir))) {
		fd = atoi(entry->d_name);
		if (fd > 2 && !fstat(fd, &st) && S_ISREG(st.st_mode) &&
		    (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
			close(fd);
	}
	if (dir)
		closedir(dir);
}

/* The next byte of the parent; 0 when it is gone, -1 when the time is over. */
static int next_byte(int fd, int timeout)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	char byte;
	int n;

	do {
		n = poll(&poll_fd, 1, timeout);
	} while (n < 0 && errno == EINTR);
	if (!n)
		return -1;
	return n > 0 && read(fd, &byte, 1) == 1 ? byte : 0;
}

/*
 * The answer to an 'o': 'b' when the kernel does not let us write, as a device on
 * the file is active. Any other error is one that stops whoever would write.
 */
static char open_writable(const char *path, int *file)
{
	*file = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	return *file < 0 && errno == ETXTBSY ? 'b' : 'a';
}

/*
 * Returns 'd' when all is done, 0 when the parent is gone, -1 when it hangs. Sets
 * @resumes when it was about to resume the device.
 */
static int wait_done(int fd, const char *path, bool *resumes)
{
	int timeout = -1, file = -1, byte;
	char answer;

	*resumes = false;
	while ((byte = next_byte(fd, timeout)) > 0 && byte != 'd') {
		answer = 'a';
		*resumes = byte == 'c';
		if (byte == 'o')
			answer = open_writable(path, &file);
		if (byte == 'c' && file >= 0) {
			close(file);
			file = -1;
		}
		if (byte != 'k' && write(fd, &answer, 1) != 1) {
			byte = 0;
			break;
		}
		timeout = KEEP_MS;
	}
	if (file >= 0)
		close(file);
	return byte;
}

/* Is it gone? What it still says is not heard. */
static bool wait_gone(int fd, int timeout)
{
	int byte;

	do {
		byte = next_byte(fd, timeout);
	} while (byte > 0);
	return !byte;
}

static void guard_run(const struct guard *g, int fd, pid_t parent,
		      guard_undo_fn *undo, void *arg, bool lock)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	bool gone = true, resumes, undone;
	int sig, byte;

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
	byte = wait_done(fd, g->path, &resumes);
	if (byte == 'd')
		_exit(EXIT_SUCCESS);
	if (byte < 0) {
		if (!resumes && getppid() == parent)
			kill(parent, SIGKILL);
		gone = wait_gone(fd, resumes ? 0 : DIE_MS);
	}
	undone = undo(arg, gone ? PARENT_GONE : PARENT_HANGS);
	if (!gone) {
		wait_gone(fd, -1);
		undo(arg, undone ? PARENT_GONE_LATE : PARENT_GONE);
	}
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
int guard_start(struct guard *g, guard_undo_fn *undo, void *arg, bool lock)
{
	pid_t parent = getpid();
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
		guard_run(g, fds[0], parent, undo, arg, lock);
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

	if (write(g->fd, byte, 1) != 1 || read(g->fd, &answer, 1) != 1)
		return -ECHILD;
	return answer == 'b' ? -ETXTBSY : 0;
}

/* The same, and surely so: if this succeeds the undo has not begun before. */
int guard_ask(const struct guard *g)
{
	return tell(g, "a");
}

/*
 * The guard opens g->path for writing, if anybody may write to it; until
 * guard_resume() or the undo nobody can resume a device on that file. -ETXTBSY: one
 * that is on it is active, or a frozen filesystem has not got it back yet.
 */
int guard_open(const struct guard *g)
{
	return tell(g, "o");
}

/* What comes now is the resume, which may take its time. */
void guard_resume(const struct guard *g)
{
	tell(g, "c");
}

static sigset_t held, before;
static unsigned int holds;
static const int endings[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

/* One that is ignored, as under nohup, would be pending all the same if it were blocked. */
static void hold(int sig)
{
	struct sigaction old;

	if (sigaction(sig, NULL, &old) || old.sa_handler != SIG_IGN)
		sigaddset(&held, sig);
}

/* What ends or stops us waits until signals_release(). May be nested. */
void signals_hold(void)
{
	size_t i;

	if (holds++)
		return;
	sigemptyset(&held);
	for (i = 0; i < ARRAY_SIZE(endings); i++)
		hold(endings[i]);
	/* a device that is suspended must not stay so until fg */
	hold(SIGTSTP);
	hold(SIGTTOU);
	sigprocmask(SIG_BLOCK, &held, &before);
}

bool signals_pending(void)
{
	sigset_t pending;
	bool is = false;
	size_t i;

	if (sigpending(&pending))
		return false;
	for (i = 0; i < ARRAY_SIZE(endings); i++)
		is |= sigismember(&held, endings[i]) &&
		      sigismember(&pending, endings[i]);
	return is;
}

/* What came while it was blocked came too late to stop anything. */
void signals_forget(void)
{
	const struct timespec none = { 0 };

	while (sigtimedwait(&held, NULL, &none) > 0)
		;
}

void signals_release(void)
{
	if (--holds)
		return;
	sigprocmask(SIG_SETMASK, &before, NULL);
}
