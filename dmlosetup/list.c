// SPDX-License-Identifier: GPL-2.0-only
/* Show devices: a table by libsmartcols, or one line each as losetup -a does. */
#include <errno.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sysmacros.h>

#include "dmlosetup.h"

#define STATUS_NOT_FOUND	1
#define STATUS_ERROR		2

enum column {
	COL_NAME, COL_AUTOCLEAR, COL_BACK_FILE, COL_BACK_INO, COL_BACK_MAJMIN,
	COL_BACK_MAJ, COL_BACK_MIN, COL_MAJMIN, COL_MAJ, COL_MIN, COL_OFFSET,
	COL_RO, COL_SIZELIMIT, COL_DIO, COL_LOG_SEC, COL_PARTSCAN, COL_SIZE,
	COL_MODE, COL_EXTENTS, COL_FSTYPE, COL_PIN, COL_MAPPED, COL_HOLE,
	COL_UNWRITTEN, COL_SHARED, COL_OPTIONS,
	NR_COLUMNS
};

struct column_info {
	const char *name;
	double width;
	int json;
	const char *help;
};

#define NUMBER	SCOLS_JSON_NUMBER
#define BOOLEAN	SCOLS_JSON_BOOLEAN
#define STRING	SCOLS_JSON_STRING

static const struct column_info columns[NR_COLUMNS] = {
	[COL_NAME] = { "NAME", 0.25, STRING, "device node" },
	[COL_AUTOCLEAR] = { "AUTOCLEAR", 1, BOOLEAN, "detached when it is closed" },
	[COL_BACK_FILE] = { "BACK-FILE", 0.3, STRING, "backing file" },
	[COL_BACK_INO] = { "BACK-INO", 4, NUMBER, "inode number of the backing file" },
	[COL_BACK_MAJMIN] = { "BACK-MAJ:MIN", 6, STRING, "device number of its filesystem" },
	[COL_BACK_MAJ] = { "BACK-MAJ", 6, NUMBER, "its major number" },
	[COL_BACK_MIN] = { "BACK-MIN", 6, NUMBER, "its minor number" },
	[COL_MAJMIN] = { "MAJ:MIN", 3, STRING, "device number of the device" },
	[COL_MAJ] = { "MAJ", 1, NUMBER, "its major number" },
	[COL_MIN] = { "MIN", 1, NUMBER, "its minor number" },
	[COL_OFFSET] = { "OFFSET", 5, NUMBER, "start in the file, in bytes" },
	[COL_RO] = { "RO", 1, BOOLEAN, "read-only" },
	[COL_SIZELIMIT] = { "SIZELIMIT", 5, NUMBER, "bytes of the file in it, 0: to the end" },
	[COL_DIO] = { "DIO", 1, BOOLEAN, "past the page cache, as in mapped mode" },
	[COL_LOG_SEC] = { "LOG-SEC", 4, NUMBER, "logical sector size, in bytes" },
	[COL_PARTSCAN] = { "PARTSCAN", 1, BOOLEAN, "always 0, see kpartx(8)" },
	[COL_SIZE] = { "SIZE", 5, NUMBER, "size of the device, in bytes" },
	[COL_MODE] = { "MODE", 6, STRING, "mapped, file, or released while suspended" },
	[COL_EXTENTS] = { "EXTENTS", 4, NUMBER, "entries in the extent table" },
	[COL_FSTYPE] = { "FSTYPE", 4, STRING, "type of the backing file's filesystem" },
	[COL_PIN] = { "PIN", 6, STRING, "what keeps the blocks in place" },
	[COL_MAPPED] = { "MAPPED", 5, NUMBER, "bytes that are read and written directly" },
	[COL_HOLE] = { "HOLE", 5, NUMBER, "bytes without blocks" },
	[COL_UNWRITTEN] = { "UNWRITTEN", 5, NUMBER, "bytes with blocks that were never written" },
	[COL_SHARED] = { "SHARED", 5, NUMBER, "bytes whose blocks belong to a clone too" },
	[COL_OPTIONS] = { "OPTIONS", 0.1, STRING, "options of the target" },
};

static const enum column default_columns[] = {
	COL_NAME, COL_SIZELIMIT, COL_OFFSET, COL_AUTOCLEAR, COL_RO,
	COL_BACK_FILE, COL_MODE, COL_LOG_SEC,
};

struct selection {
	enum column ids[2 * NR_COLUMNS];
	size_t nr;
};

void list_columns_help(void)
{
	size_t i;

	for (i = 0; i < NR_COLUMNS; i++)
		printf("  %-13s %s\n", columns[i].name, columns[i].help);
}

static int select_one(struct selection *sel, const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < NR_COLUMNS; i++) {
		if (strlen(columns[i].name) == len &&
		    !strncasecmp(columns[i].name, name, len))
			break;
	}
	if (i == NR_COLUMNS) {
		complain("unknown column: %.*s (dmlosetup --help lists them)",
			 (int)len, name);
		return -EINVAL;
	}
	if (sel->nr == ARRAY_SIZE(sel->ids)) {
		complain("too many columns");
		return -EINVAL;
	}
	sel->ids[sel->nr++] = i;
	return 0;
}

static void select_defaults(struct selection *sel)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(default_columns); i++)
		sel->ids[sel->nr++] = default_columns[i];
}

static int select_columns(const struct options *opts, struct selection *sel)
{
	const char *s = opts->columns;
	size_t len, i;

	sel->nr = 0;
	if (opts->output_all) {
		for (i = 0; i < NR_COLUMNS; i++)
			sel->ids[sel->nr++] = i;
		return 0;
	}
	if (!s || *s == '+')
		select_defaults(sel);
	if (s && *s == '+')
		s++;
	while (s) {
		len = strcspn(s, ",");
		if (select_one(sel, s, len))
			return -EINVAL;
		s = s[len] ? s + len + 1 : NULL;
	}
	return 0;
}

static char *number(uint64_t value)
{
	return xasprintf("%ju", (uintmax_t)value);
}

static char *sectors(uint64_t value)
{
	return number(value << SECTOR_SHIFT);
}

static char *boolean(bool value)
{
	return xstrdup(value ? "1" : "0");
}

static char *logical_sector(const struct loop_device *d)
{
	char *path = xasprintf("/sys/dev/block/%u:%u/queue/logical_block_size",
			       d->id.major, d->id.minor);
	FILE *f = fopen(path, "re");
	unsigned int size;
	char *text = NULL;

	if (f) {
		if (fscanf(f, "%u", &size) == 1)
			text = number(size);
		fclose(f);
	}
	free(path);
	return text;
}

/* 0 when the device goes on to the last whole sector of the file */
static uint64_t sizelimit(const struct loop_device *d)
{
	uint64_t end = d->table.offset + (d->length << SECTOR_SHIFT);

	if (d->has_backing && end <= d->back_size &&
	    d->back_size - end < SECTOR_SIZE)
		return 0;
	return d->length << SECTOR_SHIFT;
}

static char *direct_io(const struct loop_device *d)
{
	uint64_t dio;

	if (!d->has_status)
		return NULL;
	return status_pair(&d->status, "dio", &dio) ? boolean(dio) : NULL;
}

/* As the kernel says it of losetup's, which knows the new name of a moved one, though. */
static char *back_file(const struct loop_device *d)
{
	return xasprintf("%s%s", d->table.path,
			 d->has_backing && !device_has_file(d) ?
			 " (deleted)" : "");
}

static char *backing_cell(const struct loop_device *d, enum column id)
{
	if (!d->has_backing)
		return NULL;
	switch (id) {
	case COL_BACK_INO:
		return number(d->back_ino);
	case COL_BACK_MAJMIN:
		return xasprintf("%u:%u", major(d->back_dev), minor(d->back_dev));
	case COL_BACK_MAJ:
		return number(major(d->back_dev));
	default:
		return number(minor(d->back_dev));
	}
}

static char *status_cell(const struct loop_device *d, enum column id)
{
	const struct status_line *s = &d->status;

	if (!d->has_status)
		return NULL;
	switch (id) {
	case COL_MODE:
		return xstrdup(s->mode);
	case COL_EXTENTS:
		return number(s->extents);
	case COL_FSTYPE:
		return xstrdup(s->fstype);
	case COL_PIN:
		return xstrdup(s->pin);
	case COL_MAPPED:
		return sectors(s->mapped);
	case COL_HOLE:
		return sectors(s->hole);
	case COL_UNWRITTEN:
		return sectors(s->unwritten);
	default:
		return sectors(s->shared);
	}
}

/* The length of the UTF-8 character at @s, 0 if there is none. */
static size_t utf8_length(const char *s)
{
	const unsigned char *u = (const void *)s;
	size_t len, i;

	if (u[0] < 0x80)
		return 1;
	if (u[0] < 0xc2 || u[0] > 0xf4)
		return 0;
	len = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
	for (i = 1; i < len; i++) {
		if ((u[i] & 0xc0) != 0x80)
			return 0;
	}
	/* overlong, a surrogate, too large */
	if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) ||
	    (u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f))
		return 0;
	return len;
}

/* JSON is UTF-8, a file name need not be: U+FFFD stands for other bytes. */
static char *json_text(char *text)
{
	char *valid = xcalloc(3 * strlen(text) + 1, 1);
	char *out = valid;
	const char *s = text;

	while (*s) {
		size_t len = utf8_length(s);

		if (len) {
			memcpy(out, s, len);
			out += len;
			s += len;
		} else {
			memcpy(out, "\xef\xbf\xbd", 3);
			out += 3;
			s++;
		}
	}
	free(text);
	return valid;
}

/* NULL: not known */
static char *cell(const struct loop_device *d, enum column id)
{
	switch (id) {
	case COL_NAME:
		return xstrdup(d->id.node);
	case COL_AUTOCLEAR:
		return boolean(d->deferred);
	case COL_BACK_FILE:
		return back_file(d);
	case COL_BACK_INO:
	case COL_BACK_MAJMIN:
	case COL_BACK_MAJ:
	case COL_BACK_MIN:
		return backing_cell(d, id);
	case COL_MAJMIN:
		return xasprintf("%u:%u", d->id.major, d->id.minor);
	case COL_MAJ:
		return number(d->id.major);
	case COL_MIN:
		return number(d->id.minor);
	case COL_OFFSET:
		return number(d->table.offset);
	case COL_RO:
		return boolean(d->read_only);
	case COL_SIZELIMIT:
		return number(sizelimit(d));
	case COL_DIO:
		return direct_io(d);
	case COL_LOG_SEC:
		return logical_sector(d);
	case COL_PARTSCAN:
		return boolean(false);
	case COL_SIZE:
		return sectors(d->length);
	case COL_OPTIONS:
		return xstrdup(d->table.options);
	default:
		return status_cell(d, id);
	}
}

static struct libscols_table *new_table(const struct options *opts,
					const struct selection *sel)
{
	struct libscols_table *tb = scols_new_table();
	size_t i;

	if (!tb)
		return NULL;
	scols_table_enable_raw(tb, opts->raw);
	scols_table_enable_json(tb, opts->json);
	scols_table_enable_noheadings(tb, opts->noheadings);
	/* as losetup calls it: scripts need not care which one answers */
	scols_table_set_name(tb, "loopdevices");
	for (i = 0; i < sel->nr; i++) {
		const struct column_info *info = &columns[sel->ids[i]];
		struct libscols_column *cl;

		cl = scols_table_new_column(tb, info->name, info->width,
					    info->json == STRING ? 0 :
					    SCOLS_FL_RIGHT);
		if (!cl) {
			scols_unref_table(tb);
			return NULL;
		}
		scols_column_set_json_type(cl, info->json);
	}
	return tb;
}

static int add_line(struct libscols_table *tb, const struct selection *sel,
		    const struct loop_device *dev, bool json)
{
	struct libscols_line *ln = scols_table_new_line(tb, NULL);
	size_t i;

	if (!ln)
		return -ENOMEM;
	for (i = 0; i < sel->nr; i++) {
		char *text = cell(dev, sel->ids[i]);

		if (text && json)
			text = json_text(text);
		if (text && scols_line_refer_data(ln, i, text))
			return -ENOMEM;
	}
	return 0;
}

static int print_table(const struct options *opts,
		       const struct selection *sel,
		       const struct loop_device *devs, size_t nr)
{
	struct libscols_table *tb = new_table(opts, sel);
	int err = tb ? 0 : -ENOMEM;
	size_t i;

	for (i = 0; !err && i < nr; i++)
		err = add_line(tb, sel, &devs[i], opts->json);
	if (!err && scols_print_table(tb))
		err = -EIO;
	if (err)
		complain_errno(err, "cannot print the table");
	scols_unref_table(tb);
	return err;
}

/* As losetup -a: /dev/mapper/loop0: [2049]:131 (/srv/disk.img), offset 512 */
static void print_line(const struct loop_device *d)
{
	uint64_t limit = sizelimit(d);
	char *file = back_file(d);

	printf("%s: [%04ju]:%ju (%s)", d->id.node,
	       d->has_backing ? (uintmax_t)d->back_dev : 0,
	       d->has_backing ? (uintmax_t)d->back_ino : 0,
	       shown(file));
	free(file);
	if (d->table.offset)
		printf(", offset %ju", (uintmax_t)d->table.offset);
	if (limit)
		printf(", sizelimit %ju", (uintmax_t)limit);
	putchar('\n');
}

static int print_devices(const struct options *opts,
			 const struct loop_device *devs, size_t nr)
{
	struct selection sel;
	size_t i;

	if (opts->table) {
		if (select_columns(opts, &sel) ||
		    print_table(opts, &sel, devs, nr))
			return EXIT_FAILURE;
	} else {
		for (i = 0; i < nr; i++)
			print_line(&devs[i]);
	}
	if (fflush(stdout)) {
		complain_errno(-errno, "cannot write the list");
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}

/* -j: only the devices on this inode, and with -o of this offset */
static int keep_associated(const struct options *opts,
			   struct loop_device *devs, size_t *nr)
{
	struct stat st;
	size_t i, kept = 0;

	if (stat(opts->file, &st)) {
		*nr = 0;
		/* as with losetup */
		if (errno == ENOENT)
			return 0;
		complain_errno(-errno, "cannot look at %s", shown(opts->file));
		return -EINVAL;
	}
	for (i = 0; i < *nr; i++) {
		struct loop_device swap = devs[kept];

		if (!device_on_file(&devs[i], &st) ||
		    (opts->has_offset && devs[i].table.offset != opts->offset))
			continue;
		devs[kept] = devs[i];
		devs[i] = swap;
		kept++;
	}
	*nr = kept;
	return 0;
}

int do_list(const struct options *opts)
{
	struct loop_device *devs = NULL;
	size_t nr = 0, all;
	struct selection sel;
	int status, err;

	/* a wrong column is wrong without devices too */
	if (opts->table && select_columns(opts, &sel))
		return EXIT_FAILURE;
	err = device_list(&devs, &nr);
	all = nr;
	if (err || (opts->file && keep_associated(opts, devs, &nr)))
		status = EXIT_FAILURE;
	else
		status = print_devices(opts, devs, nr);
	device_free(devs, all);
	return status;
}

int do_show_one(const struct options *opts)
{
	struct loop_device *devs = NULL;
	int status = STATUS_ERROR;
	char *name = NULL;
	size_t nr = 0;
	int err;

	err = dm_check_control();
	/* without the driver there is no device */
	if (err && err != -EACCES && err != -EPERM)
		err = -ENXIO;
	if (!err)
		err = dm_resolve(opts->name, &name);
	if (!err)
		err = device_read(name, &devs, &nr);
	if (!err && !devs[0].table.path)
		err = -ENXIO;
	switch (err) {
	case 0:
		if (!print_devices(opts, devs, nr))
			status = EXIT_SUCCESS;
		break;
	case -ENXIO:
	case -ENOENT:
		complain("%s: no such device", shown(opts->name));
		status = STATUS_NOT_FOUND;
		break;
	case -ENOTTY:
		complain("%s is a device-mapper device, but not of dm-loop",
			 shown(opts->name));
		status = STATUS_NOT_FOUND;
		break;
	default:
		complain_errno(err, "cannot read %s", shown(opts->name));
		break;
	}
	device_free(devs, nr);
	free(name);
	return status;
}
