// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attach a file. The name is taken by creating it, so two commands never get
 * the same one; whatever fails afterwards removes the device again, and so
 * does the guard when this process is killed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "dmlosetup.h"

/* as many as there are minor numbers */
#define MAX_DEVICES	1048576U

struct names {
	char **list;
	size_t nr;
};

static int read_names(struct names *names)
{
	int err = dm_list_names(&names->list, &names->nr);

	if (err)
		complain_errno(err, "cannot list the devices of device-mapper");
	return err;
}

static bool name_taken(const struct names *names, const char *name)
{
	size_t i;

	for (i = 0; i < names->nr; i++) {
		if (!strcmp(names->list[i], name))
			return true;
	}
	return false;
}

/* The first free name at or after @from, "" when all are taken. */
static unsigned int free_name(const struct names *names, unsigned int from,
			      char *name, size_t size)
{
	for (; from < MAX_DEVICES; from++) {
		snprintf(name, size, "loop%u", from);
		if (!name_taken(names, name))
			return from;
	}
	*name = '\0';
	return from;
}

int do_find(const struct options *opts)
{
	struct names names;
	char name[32];

	(void)opts;
	if (target_available() || read_names(&names))
		return EXIT_FAILURE;
	free_name(&names, 0, name, sizeof(name));
	dm_free_names(names.list, names.nr);
	if (!*name) {
		complain("all %u device names are in use", MAX_DEVICES);
		return EXIT_FAILURE;
	}
	printf("/dev/mapper/%s\n", name);
	return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int random_uuid(char *uuid, size_t size)
{
	unsigned char r[16];
	size_t i;
	int n;

	if (getrandom(r, sizeof(r), 0) != sizeof(r)) {
		complain("no random numbers for the UUID of a device");
		return -EAGAIN;
	}
	r[6] = (r[6] & 0x0f) | 0x40;
	r[8] = (r[8] & 0x3f) | 0x80;
	n = snprintf(uuid, size, UUID_PREFIX);
	for (i = 0; i < sizeof(r); i++)
		n += snprintf(uuid + n, size - n, "%s%02x",
			      i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			      r[i]);
	return 0;
}

/* What is to be made. */
struct plan {
	const char *file;	/* as the user wrote it */
	struct backing backing;
	uint64_t offset;
	uint64_t sectors;
	bool read_only;
	char *params;
	char uuid[64];
};

static int plan_size(const struct options *opts, struct plan *plan)
{
	uint64_t size = plan->backing.st.st_size;
	const char *file = shown(opts->file);

	if (!size) {
		complain("cannot attach %s: it is empty; give it a size, as with %s",
			 file, "dmlosetup --prepare --size SIZE");
		return -EINVAL;
	}
	if (opts->offset % SECTOR_SIZE) {
		complain("cannot attach %s: offset %ju is not a multiple of %u",
			 file, (uintmax_t)opts->offset, SECTOR_SIZE);
		return -EINVAL;
	}
	if (opts->offset >= size) {
		complain("cannot attach %s: offset %ju is behind its end, %ju bytes",
			 file, (uintmax_t)opts->offset, (uintmax_t)size);
		return -EINVAL;
	}
	size -= opts->offset;
	if (opts->sizelimit && opts->sizelimit < size)
		size = opts->sizelimit;
	if (size < SECTOR_SIZE) {
		complain("cannot attach %s: %ju bytes are less than a sector of %u",
			 file, (uintmax_t)size, SECTOR_SIZE);
		return -EINVAL;
	}
	if (size % SECTOR_SIZE)
		complain("warning: %s: the last %ju bytes are no full sector and are left out",
			 file, (uintmax_t)size % SECTOR_SIZE);
	plan->offset = opts->offset;
	plan->sectors = size >> SECTOR_SHIFT;
	return 0;
}

static void plan_params(const struct options *opts, struct plan *plan)
{
	const char *words[8] = { NULL };
	char chunk[32];
	size_t n = 0;

	if (opts->mapped)
		words[n++] = "mapped";
	if (opts->no_discard)
		words[n++] = "no_discard";
	if (opts->unshare)
		words[n++] = "unshare";
	if (opts->chunk) {
		snprintf(chunk, sizeof(chunk), "%ju", (uintmax_t)opts->chunk);
		words[n++] = "chunk";
		words[n++] = chunk;
	}
	plan->params = table_build(plan->backing.path, plan->offset, words);
}

static int plan_make(const struct options *opts, struct plan *plan)
{
	int err;

	memset(plan, 0, sizeof(*plan));
	plan->file = opts->file;
	err = backing_open(opts->file, &plan->backing);
	if (err)
		return err;
	err = plan_size(opts, plan);
	if (err)
		return err;
	plan->read_only = opts->read_only;
	if (!plan->read_only && !plan->backing.writable) {
		complain("warning: %s is write-protected, attaching it read-only",
			 shown(opts->file));
		plan->read_only = true;
	}
	plan_params(opts, plan);
	return random_uuid(plan->uuid, sizeof(plan->uuid));
}

static void plan_free(struct plan *plan)
{
	backing_close(&plan->backing);
	free(plan->params);
}

static bool undo_create(void *arg, enum guard_when when)
{
	(void)when;
	dm_undo_create(arg);
	return true;
}

/* A table was refused: say what the kernel says. */
static void explain_load(const struct plan *plan, const struct dm_id *id,
			 int kmsg, int err)
{
	char *reason = kmsg_reason(kmsg, id->major, id->minor,
				   plan->backing.path);
	const char *advice = load_advice(err, reason);

	complain("cannot attach %s: %s (%s)%s%s", shown(plan->file),
		 reason ? reason : "the kernel refused the table",
		 strerror(-err), advice ? "; " : "", advice ? advice : "");
	if (!reason && *dm_last_log())
		note("%s", dm_last_log());
	free(reason);
}

/* The kernel has opened the path anew. */
static int check_file(const struct plan *plan, const struct dm_id *id)
{
	struct loop_device *devs = NULL;
	size_t nr = 0;
	int err;

	err = device_read(id->name, &devs, &nr);
	if (!err && !(nr == 1 && device_on_file(devs, &plan->backing.st)))
		err = -ESTALE;
	if (err == -ESTALE)
		complain("cannot attach %s: it was replaced meanwhile; try again",
			 shown(plan->file));
	else if (err)
		complain_errno(err, "cannot attach %s: cannot read the device",
			       shown(plan->file));
	device_free(devs, nr);
	return err;
}

/* From a name without a table to a device with a node. */
static int fill_device(const struct plan *plan, const struct dm_id *id)
{
	char type[] = TARGET_NAME;
	struct dm_line line = {
		.length = plan->sectors,
		.type = type,
		.params = plan->params,
	};
	int kmsg = kmsg_open();
	int err;

	err = dm_load(id->name, &line, 1, plan->read_only);
	if (!err)
		err = dm_resume(id->name, NULL);
	if (err)
		explain_load(plan, id, kmsg, err);
	if (kmsg >= 0)
		close(kmsg);
	if (!err)
		err = check_file(plan, id);
	if (err)
		return err;
	err = dm_ensure_node(id);
	if (err)
		complain("cannot attach %s: cannot make node %s; is /dev writable?",
			 shown(plan->file), shown(id->node));
	return err;
}

static int tell(const struct options *opts, const struct dm_id *id)
{
	if (opts->show)
		printf("%s\n", id->node);
	if (fflush(stdout)) {
		complain_errno(-errno, "cannot write the name of the device");
		return -EIO;
	}
	return 0;
}

/* The name is ours: finish, or leave nothing. */
static int finish_device(const struct options *opts, const struct plan *plan,
			 const struct dm_id *id)
{
	int err, undone;

	err = fill_device(plan, id);
	/* ^C now, while nobody knows the name: as if it had come before */
	if (!err && signals_pending())
		err = -EINTR;
	if (!err)
		err = tell(opts, id);
	if (!err)
		return 0;
	undone = dm_undo_create(plan->uuid);
	if (undone)
		complain_errno(undone, "cannot remove the unfinished device %s",
			       shown(id->node));
	return TOLD;
}

static int attach_named(const struct options *opts, const struct plan *plan,
			const char *name)
{
	struct dm_id id;
	int err;

	err = dm_create(name, plan->uuid, &id);
	if (err)
		return err;
	err = finish_device(opts, plan, &id);
	dm_id_free(&id);
	return err;
}

static int attach_first_free(const struct options *opts,
			     const struct plan *plan)
{
	struct names names;
	unsigned int nr = 0;
	char name[32];
	int err;

	err = read_names(&names);
	if (err)
		return TOLD;
	do {
		nr = free_name(&names, nr, name, sizeof(name));
		if (!*name) {
			complain("cannot attach %s: all %u device names are in use",
				 shown(plan->file), MAX_DEVICES);
			err = TOLD;
			break;
		}
		err = attach_named(opts, plan, name);
		nr++;
	} while (err == -EEXIST);
	dm_free_names(names.list, names.nr);
	if (err < 0)
		complain_errno(err, "cannot attach %s: cannot create device %s",
			       shown(plan->file), name);
	return err;
}

/* /dev/mapper/disk is disk too */
static const char *plain_name(const char *name)
{
	size_t dir = strlen("/dev/mapper/");

	return strncmp(name, "/dev/mapper/", dir) ? name : name + dir;
}

static int attach_as(const struct options *opts, const struct plan *plan)
{
	const char *name = plain_name(opts->name);
	int err;

	if (!*name || strchr(name, '/')) {
		complain("%s is no name for a device; give a plain one such as disk",
			 shown(opts->name));
		return TOLD;
	}
	err = attach_named(opts, plan, name);
	if (err == -EEXIST)
		complain("cannot attach %s as %s: the name is taken; %s",
			 shown(plan->file), shown(name),
			 "take another one, or -f for the first free one");
	else if (err == -EINVAL)
		complain("cannot attach %s: device-mapper does not take the name %s",
			 shown(plan->file), shown(name));
	else if (err < 0)
		complain_errno(err, "cannot attach %s: cannot create device %s",
			       shown(plan->file), shown(name));
	return err;
}

/* It was to go with its last user, and may be gone by now. */
static bool keep(const struct loop_device *d)
{
	char *answer = NULL;
	int err;

	err = dm_message(d->id.name, 0, "@cancel_deferred_remove", &answer);
	free(answer);
	return !err;
}

/* Is that what the user calls it? */
static bool is_called(const struct loop_device *d, const char *arg)
{
	char *name;
	bool same;

	same = !dm_resolve(plain_name(arg), &name) && !strcmp(name, d->id.name);
	free(name);
	return same;
}

/* Why it would not do in the place of what was asked for, or NULL. */
static const char *not_as_asked(const struct options *opts, const struct plan *plan,
				const struct loop_device *d)
{
	char chunk[32];

	snprintf(chunk, sizeof(chunk), "chunk %ju", (uintmax_t)opts->chunk);
	if (opts->name && !is_called(d, opts->name))
		return "under another name";
	if (d->suspended)
		return "and suspended";
	if (d->read_only && !plan->read_only)
		return "read-only";
	if (opts->mapped && !table_option(&d->table, "mapped"))
		return "without --mapped";
	if (opts->no_discard && !table_option(&d->table, "no_discard"))
		return "without --no-discard";
	if (opts->unshare && !table_option(&d->table, "unshare"))
		return "without --unshare";
	if (opts->chunk && !table_option(&d->table, chunk))
		return "without this --chunk";
	return NULL;
}

/* --nooverlap: the device that already shows just this part of the file */
static int reuse(const struct options *opts, const struct plan *plan)
{
	const struct loop_device *other = NULL;
	const char *why, *other_why = NULL;
	struct loop_device *devs;
	int result = -ENOENT;
	size_t nr, i;

	if (device_read_all(&devs, &nr))
		nr = 0;
	for (i = 0; i < nr && result == -ENOENT; i++) {
		const struct loop_device *d = &devs[i];

		if (!device_on_file(d, &plan->backing.st) ||
		    d->table.offset != plan->offset ||
		    d->length != plan->sectors || !device_one_line(d, 1))
			continue;
		why = not_as_asked(opts, plan, d);
		if (why) {
			other = d;
			other_why = why;
		} else if (!d->deferred || keep(d)) {
			result = tell(opts, &d->id) ? TOLD : 0;
		}
	}
	if (result == -ENOENT && other) {
		complain("%s is attached %s: %s", shown(plan->file), other_why,
			 shown(other->id.node));
		result = TOLD;
	}
	device_free(devs, nr);
	return result;
}

static int attach_guarded(const struct options *opts, struct plan *plan)
{
	struct guard guard = { 0 };
	int err;

	signals_hold();
	err = guard_start(&guard, undo_create, plan->uuid, false);
	if (err) {
		complain_errno(err, "cannot attach %s: no second process",
			       shown(plan->file));
	} else {
		err = opts->name ? attach_as(opts, plan) :
				   attach_first_free(opts, plan);
		guard_done(&guard);
		/* the name has been told */
		if (!err)
			signals_forget();
	}
	signals_release();
	return err;
}

int do_attach(const struct options *opts)
{
	struct plan plan;
	int err = -ENOENT;

	if (plan_make(opts, &plan) || target_available()) {
		plan_free(&plan);
		return EXIT_FAILURE;
	}
	if (opts->nooverlap)
		err = reuse(opts, &plan);
	if (err == -ENOENT)
		err = attach_guarded(opts, &plan);
	plan_free(&plan);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
