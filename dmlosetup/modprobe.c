// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes sure that the kernel has the target. The kernel asks for the module
 * by itself when a table is loaded, but then the error for a missing module
 * is a bare EINVAL; and in an initramfs its helper may be elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dmlosetup.h"

/* Returns modprobe's exit status, or 127 when there is none. */
static int run_modprobe(const char *module)
{
	int status, fd;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		return 127;
	if (!pid) {
		fd = open("/dev/null", O_RDWR);
		if (fd >= 0 && !verbose) {
			dup2(fd, STDOUT_FILENO);
			dup2(fd, STDERR_FILENO);
		}
		/* not the caller's PATH: root must get root's modprobe */
		setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
		execlp("modprobe", "modprobe", "--", module, (char *)NULL);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return 127;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 127;
}

/* Says why when it fails. */
int target_available(void)
{
	struct utsname uts = { 0 };
	int err, status;

	err = dm_check_control();
	if (!err && dm_target_known())
		return 0;
	if (err == -EACCES || err == -EPERM) {
		complain("cannot use device-mapper: %s; run it as root",
			 strerror(-err));
		return err;
	}
	note("the kernel has no target \"" TARGET_NAME "\" yet, running modprobe "
	     MODULE_NAME);
	status = run_modprobe(MODULE_NAME);
	err = dm_check_control();
	if (!err && dm_target_known())
		return 0;
	uname(&uts);
	if (status == 127)
		complain("module " MODULE_NAME " is not loaded and there is no modprobe");
	else if (!status && err)
		complain_errno(err, "cannot use /dev/mapper/control");
	else
		complain("cannot load module " MODULE_NAME " for kernel %s; %s",
			 uts.release,
			 "is it installed (modinfo " MODULE_NAME ") and signed (dmesg)?");
	return err ? err : -ENODEV;
}
