// SPDX-License-Identifier: GPL-2.0-only
/*
 * Detach. It is done when this returns success, and not otherwise: a device
 * in use stays, and the message says who uses it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dmlosetup.h"

/* udev looks at a new device for some milliseconds */
#define RETRIES	8

static void complain_busy(const struct loop_device *dev, char *who)
{
	if (!who)
		who = xasprintf("something has it open (see fuser -v %s)",
				shown(dev->id.node));
	complain("cannot detach %s: %s; end that first, or use --deferred",
		 shown(dev->id.node), who);
	free(who);
}

static int remove_device(const struct loop_device *dev, bool deferred)
{
	struct timespec nap = { .tv_nsec = 10000000 };
	char *who = NULL;
	unsigned int tries;
	int err;

	for (tries = 0; ; tries++) {
		err = dm_remove(&dev->id, deferred);
		if (err != -EBUSY)
			break;
		/* what is there to stay is not waited for */
		who = device_user(dev);
		if (who || tries == RETRIES)
			break;
		nanosleep(&nap, NULL);
		nap.tv_nsec = nap.tv_nsec * 2 > 160000000 ? 160000000 :
			      nap.tv_nsec * 2;
	}
	if (err == -EBUSY)
		complain_busy(dev, who);
	else if (err == -ENXIO)
		complain("cannot detach %s: it is gone already",
			 shown(dev->id.node));
	else if (err)
		complain_errno(err, "cannot detach %s", shown(dev->id.node));
	return err;
}

static int detach_one(const char *arg, bool deferred)
{
	struct loop_device *devs;
	size_t nr;
	int err;

	err = device_open(arg, "detach", &devs, &nr);
	if (!err)
		err = remove_device(&devs[0], deferred);
	device_free(devs, nr);
	return err;
}

int do_detach(const struct options *opts)
{
	int status = EXIT_SUCCESS;
	char **arg;

	for (arg = opts->devices; *arg; arg++) {
		if (detach_one(*arg, opts->deferred))
			status = EXIT_FAILURE;
	}
	return status;
}

int do_detach_all(const struct options *opts)
{
	struct loop_device *devs;
	int status = EXIT_SUCCESS;
	size_t nr, i;
	int err;

	err = device_list(&devs, &nr);
	if (err)
		status = EXIT_FAILURE;
	for (i = 0; i < nr; i++) {
		/* several lines are one device */
		if (i && !strcmp(devs[i].id.name, devs[i - 1].id.name))
			continue;
		if (remove_device(&devs[i], opts->deferred))
			status = EXIT_FAILURE;
	}
	device_free(devs, nr);
	return status;
}
