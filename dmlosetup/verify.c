// SPDX-License-Identifier: GPL-2.0-only
/*
 * --verify: does the kernel's map of a file still agree with the filesystem?
 * A device with several files gives several lines.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dmlosetup.h"

static int ask(const struct loop_device *dev)
{
	char *answer;
	int err;

	err = dm_message(dev->id.name, dev->start, "check", &answer);
	if (err) {
		complain_errno(err, "cannot verify %s", shown(dev->id.node));
		return TOLD;
	}
	printf("%s", dev->id.node);
	if (dev->start)
		printf(" at sector %llu", (unsigned long long)dev->start);
	printf(": %s\n", answer);
	/* else the mode of a device that has no map: nothing can differ */
	if (!strncmp(answer, "differs", strlen("differs")))
		err = TOLD;
	free(answer);
	return err;
}

static int ask_each(const struct loop_device *devs, size_t nr)
{
	int bad = 0;
	size_t i;

	for (i = 0; i < nr; i++) {
		/* A device without a table has nothing to ask. */
		if (devs[i].table.path && ask(&devs[i]))
			bad = TOLD;
	}
	return bad;
}

static int verify_named(const char *arg)
{
	struct loop_device *devs;
	size_t nr;
	int err;

	err = device_open(arg, "verify", &devs, &nr);
	if (!err)
		err = ask_each(devs, nr);
	device_free(devs, nr);
	return err;
}

static int verify_all(void)
{
	struct loop_device *devs;
	int bad, err;
	size_t nr;

	err = device_list(&devs, &nr);
	bad = ask_each(devs, nr);
	device_free(devs, nr);
	return err ? TOLD : bad;
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
	if (fflush(stdout)) {
		complain_errno(-errno, "cannot write the result");
		bad = TOLD;
	}
	return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
