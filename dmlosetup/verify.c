// SPDX-License-Identifier: GPL-2.0-only
/* --verify: does the kernel's map of a file still agree with the filesystem? */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dmlosetup.h"

static int ask(const struct loop_device *dev)
{
	char *answer;
	int err;

	err = dm_message(dev->id.name, "check", &answer);
	if (err) {
		complain_errno(err, "cannot verify %s", shown(dev->id.node));
		return TOLD;
	}
	printf("%s: %s\n", dev->id.node, answer);
	/* else the mode of a device that has no map: nothing can differ */
	if (!strncmp(answer, "differs", strlen("differs")))
		err = TOLD;
	free(answer);
	return err;
}

static int verify_named(const char *arg)
{
	struct loop_device *devs;
	size_t nr;
	int err;

	err = device_open(arg, "verify", &devs, &nr);
	if (!err)
		err = ask(devs);
	device_free(devs, nr);
	return err;
}

static int verify_all(void)
{
	struct loop_device *devs;
	int bad = 0, err;
	size_t nr, i;

	err = device_read_all(&devs, &nr);
	if (err) {
		complain_errno(err, "cannot list the devices of device-mapper");
		bad = TOLD;
	}
	for (i = 0; i < nr; i++) {
		if (i && !strcmp(devs[i].id.name, devs[i - 1].id.name))
			continue;
		if (ask(&devs[i]))
			bad = TOLD;
	}
	device_free(devs, nr);
	return bad;
}

int do_verify(const struct options *opts)
{
	int bad = 0;
	char **arg;

	if (!*opts->devices)
		bad = verify_all();
	for (arg = opts->devices; *arg; arg++) {
		if (verify_named(*arg))
			bad = TOLD;
	}
	return bad || fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
