// SPDX-License-Identifier: GPL-2.0-only
/*
 * --replace: a device in use gets another file with the same content, perhaps
 * on another filesystem. The file is copied while the device is in use; what
 * has been written meanwhile is found and copied while it is suspended; then
 * its table is loaded anew with the other file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dmlosetup.h"

struct replace {
	const struct loop_device *dev;
	const char *file;	/* as it was given */
	char *path;		/* absolute */
	struct stat old;	/* the file so far */
	struct stat new;
	struct copy copy;
	double seconds;
};

/* 512 when it cannot be found out. */
static unsigned int sector_size(dev_t dev_nr)
{
	static const char *const places[] = { "", "../" };
	unsigned int size = 512;
	char *path;
	size_t i;
	FILE *f;

	/* a partition has no queue of its own */
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		path = xasprintf("/sys/dev/block/%u:%u/%squeue/logical_block_size",
				 major(dev_nr), minor(dev_nr), places[i]);
		f = fopen(path, "re");
		free(path);
		if (!f)
			continue;
		if (fscanf(f, "%u", &size) != 1)
			size = 512;
		fclose(f);
		break;
	}
	return size;
}

/* What is mounted on the device does I/O in its sectors. */
static int check_place(const struct replace *r)
{
	const struct dm_id *id = &r->dev->id;
	struct stat st;

	if (fstat(r->copy.to, &st))
		return -errno;
	if (lies_on(id, r->copy.to, st.st_dev)) {
		complain("cannot replace the file of %s: %s would lie on that device itself",
			 shown(id->node), shown(r->file));
		return TOLD;
	}
	if (sector_size(st.st_dev) > sector_size(makedev(id->major, id->minor))) {
		complain("cannot move %s: the disk of %s has larger sectors, of %u bytes",
			 shown(id->node), shown(r->file), sector_size(st.st_dev));
		return TOLD;
	}
	return 0;
}

/* As the old one: sparse or not, and no holes where none may be. */
static int make_room(struct replace *r)
{
	bool sparse = (uint64_t)r->old.st_blocks * 512 <
		      (uint64_t)r->old.st_size;
	int err;

	err = check_room(&r->old, r->copy.size, r->copy.to);
	if (!err && (!sparse || r->copy.all))
		err = allocate_blocks(r->copy.to, 0, r->copy.size);
	/* the writes allocate */
	if (err == -EOPNOTSUPP)
		err = 0;
	if (!err && ftruncate(r->copy.to, r->copy.size))
		err = -errno;
	return err;
}

/* Nobody else may have it open when the kernel takes it. */
static int copy_in_use(struct replace *r)
{
	int err;

	err = make_room(r);
	if (!err)
		err = copy_live(&r->copy);
	/* where there are no owners, it is ours */
	if (!err && fchown(r->copy.to, r->old.st_uid, r->old.st_gid))
		note("%s has not the owner of the old file", shown(r->file));
	if (!err)
		err = copy_mode(r->copy.from, r->copy.to,
				r->old.st_mode & 07777);
	if (!err)
		err = sync_folder(r->path);
	return err;
}

/* "/new/path 0 2 chunk 65536": the options stay */
static char *new_params(const struct replace *r)
{
	const char *options = r->dev->table.options;
	char *word = table_quote(r->path);
	char *params;
	size_t nr = *options != '\0';

	for (; *options; options++)
		nr += *options == ' ';
	if (nr)
		params = xasprintf("%s 0 %zu %s", word, nr,
				   r->dev->table.options);
	else
		params = xasprintf("%s 0", word);
	free(word);
	return params;
}

static int finish(struct replace *r, const struct hold *h)
{
	char *params;
	int err;

	/* what could not be written back when it was suspended */
	err = hold_sync(h, r->copy.from, 0);
	if (!err)
		err = copy_rest(&r->copy, h);
	if (!err && signals_pending())
		err = -EINTR;
	if (err)
		return err;
	/* the kernel takes no file that is open for writing */
	if (close(r->copy.to))
		err = -errno;
	r->copy.to = -1;
	if (err)
		return err;
	params = new_params(r);
	err = hold_load_params(h, params);
	free(params);
	/* a resume takes no other file than the load */
	if (!err && !device_loaded_file(r->dev->id.name, &r->new))
		err = -ESTALE;
	return err;
}

/* The device is suspended. Every moment of it is one to resume from. */
static int replace_held(struct replace *r, struct hold *h)
{
	struct stat st;
	int err;

	if (fstat(r->copy.from, &st) || st.st_size != r->old.st_size)
		return -ESTALE;
	/* until it has the new table: who resumes it would write to the old file */
	err = hold_file(h);
	return err ? err : finish(r, h);
}

static int switch_over(struct replace *r)
{
	struct hold h;
	char *reason;
	int err;

	err = hold_begin(&h, r->dev);
	if (err)
		return err;
	err = replace_held(r, &h);
	/* the device may need that space as soon as it goes on */
	if (err && r->copy.to >= 0 && ftruncate(r->copy.to, 0))
		note("cannot empty the unfinished file: %s", strerror(errno));
	if (err) {
		reason = kmsg_reason(h.kmsg, r->dev->id.major,
				     r->dev->id.minor, r->path);
		complain("cannot replace the file of %s: %s (%s)",
			 shown(r->dev->id.node), reason ? reason :
			 err == -ESTALE ? "it was changed meanwhile" :
			 err == -ECHILD ? "the guard process was killed" :
			 err == -ETXTBSY ? "another device uses it, or its filesystem is frozen" :
			 shown(r->file), strerror(-err));
		free(reason);
		err = TOLD;
	}
	err = hold_end(&h, err);
	r->seconds = h.seconds;
	return err;
}

/* After an error: the device may have the new file all the same. */
static bool is_used(const struct replace *r)
{
	struct loop_device *devs = NULL;
	bool used = false;
	size_t nr = 0, i;

	if (device_read(r->dev->id.name, &devs, &nr))
		nr = 0;
	for (i = 0; i < nr; i++)
		used |= devs[i].table.path && !strcmp(devs[i].table.path,
						      r->path);
	device_free(devs, nr);
	return used;
}

static int run(struct replace *r)
{
	int err;

	err = check_place(r);
	if (!err) {
		copy_init(&r->copy);
		err = copy_in_use(r);
	}
	if (!err)
		err = switch_over(r);
	copy_free(&r->copy);
	if (r->copy.to >= 0)
		close(r->copy.to);
	if (!err)
		return 0;
	if (is_used(r)) {
		complain("%s has the new file nevertheless",
			 shown(r->dev->id.node));
		return TOLD;
	}
	if (is_at(r->path, &r->new))
		unlink(r->path);
	if (err == -EINTR)
		complain("stopped; %s has the file that it had",
			 shown(r->dev->id.node));
	else if (err < 0)
		complain_errno(err, "cannot copy the file of %s to %s",
			       shown(r->dev->id.node), shown(r->file));
	return TOLD;
}

static int open_files(struct replace *r)
{
	r->copy.from = open(r->dev->table.path,
			    O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (r->copy.from < 0 || fstat(r->copy.from, &r->old) ||
	    !device_on_file(r->dev, &r->old)) {
		complain("cannot replace the file of %s: %s is not its file any more",
			 shown(r->dev->id.node), shown(r->dev->table.path));
		return TOLD;
	}
	r->copy.to = open(r->file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (r->copy.to < 0) {
		complain_errno(-errno, "cannot create %s", shown(r->file));
		return TOLD;
	}
	r->path = realpath(r->file, NULL);
	if (r->path && !fstat(r->copy.to, &r->new) && is_at(r->path, &r->new))
		return 0;
	complain_errno(r->path ? -ESTALE : -errno,
		       "cannot find the absolute path of %s", shown(r->file));
	if (!fstat(r->copy.to, &r->new) && is_at(r->file, &r->new))
		unlink(r->file);
	return TOLD;
}

static int replace(const struct loop_device *dev, const char *file)
{
	struct replace r = {
		.dev = dev, .file = file,
		.copy = {
			.from = -1, .to = -1, .offset = dev->table.offset,
			.size = dev->length << SECTOR_SHIFT,
			.all = table_option(&dev->table, "mapped"),
		},
	};
	int err;

	/* from the moment on that there is a file to be removed */
	signals_hold();
	err = open_files(&r);
	if (!err)
		err = run(&r);
	if (!err) {
		printf("%s: replaces %s of %s, which was suspended for %.1f ms\n",
		       shown(file), shown(dev->table.path),
		       shown(dev->id.node), r.seconds * 1000);
		flush_report();
		signals_forget();
	}
	if (r.copy.from >= 0)
		close(r.copy.from);
	free(r.path);
	signals_release();
	return err;
}

int do_replace(const struct options *opts)
{
	struct loop_device *devs;
	size_t nr;
	int err;

	err = device_open_active(opts->name, "replace the file of", &devs, &nr);
	if (!err && !device_one_line(devs, nr)) {
		complain("cannot replace the file of %s: its table is not one line of dm-loop",
			 shown(opts->name));
		err = TOLD;
	}
	if (!err)
		err = replace(devs, opts->file);
	device_free(devs, nr);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
