/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dmlosetup - set up and control dm-loop devices
 */
#ifndef DMLOSETUP_H
#define DMLOSETUP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#ifndef DMLOSETUP_VERSION
#define DMLOSETUP_VERSION "unknown"
#endif

#define SECTOR_SHIFT	9
#define SECTOR_SIZE	512U

#define TARGET_NAME	"loop"
#define MODULE_NAME	"dm-loop"
#define UUID_PREFIX	"LOOP-"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define __printf(a, b)	__attribute__((__format__(printf, a, b)))

/* What the command line asks for. */
enum action {
	ACT_LIST,		/* no argument, -l, -a, -j */
	ACT_SHOW_ONE,		/* NAME */
	ACT_FIND,		/* -f */
	ACT_ATTACH,		/* -f FILE, NAME FILE */
	ACT_DETACH,		/* -d NAME... */
	ACT_DETACH_ALL,		/* -D */
	ACT_PREPARE,		/* --prepare FILE */
	ACT_SET_CAPACITY,	/* -c NAME */
	ACT_REFRESH,		/* --refresh NAME... */
	ACT_SNAPSHOT,		/* --snapshot NAME FILE */
	ACT_VERIFY,		/* --verify [NAME...] */
	ACT_DEFRAG,		/* --defrag NAME */
	ACT_REPLACE,		/* --replace NAME FILE */
};

struct options {
	enum action action;
	const char *name;	/* NULL: the first free one */
	const char *file;
	char **devices;		/* operands of -d and others, NULL-terminated */

	bool show;
	bool read_only;
	bool nooverlap;
	bool mapped;
	bool no_discard;
	bool unshare;
	bool deferred;
	bool shrink;

	uint64_t offset;
	uint64_t sizelimit;	/* 0: to the end of the file */
	uint64_t chunk;		/* 0: the target's own default */
	uint64_t size;
	bool has_offset;
	bool has_size;

	bool table;		/* columns rather than one line a device */
	bool noheadings;
	bool raw;
	bool json;
	bool output_all;
	const char *columns;
};

/* error.c: what is said to people */
extern bool verbose;

/*
 * Functions return 0 or a negative errno. This value is for a failure that was
 * already told, where the caller would tell of an errno.
 */
#define TOLD		1

void complain(const char *fmt, ...) __printf(1, 2);
void complain_errno(int err, const char *fmt, ...) __printf(2, 3);
void flush_report(void);
void note(const char *fmt, ...) __printf(1, 2);
void messages_keep(void);
void messages_show(void);
const char *shown(const char *s);
const char *human(uint64_t bytes);
void *xcalloc(size_t n, size_t size);
char *xstrdup(const char *s);
void *xaligned(size_t size);
char *xasprintf(const char *fmt, ...) __printf(1, 2);
const char *load_advice(int err, bool known);

/* size.c */
int parse_size(const char *text, uint64_t *value);

/* table.c: the target's table line and status line */
struct table_line {
	char *path;		/* as the kernel has it, not escaped */
	uint64_t offset;	/* bytes */
	char *options;		/* the words after the count, or "" */
};

struct status_line {
	char mode[16];
	char fstype[32];
	char pin[16];
	uint64_t extents;
	uint64_t mapped;	/* this and the next three: sectors */
	uint64_t hole;
	uint64_t unwritten;
	uint64_t shared;
	char *pairs;		/* "name value name value ...", or "" */
};

char *table_quote(const char *path);
char *table_build(const char *path, uint64_t offset, const char *const *options);
int table_parse(const char *params, struct table_line *line);
bool table_option(const struct table_line *line, const char *option);
void table_free(struct table_line *line);
int status_parse(const char *params, struct status_line *line);
void status_free(struct status_line *line);
bool status_pair(const struct status_line *line, const char *name,
		 uint64_t *value);

/* kmsg.c: the kernel's own words about a table it refused */
int kmsg_open(void);
char *kmsg_reason(int fd, unsigned int major, unsigned int minor,
		  const char *path);

/* modprobe.c */
int target_available(void);

/* dm.c: libdevmapper, one task at a time */
struct dm_id {
	char *name;		/* as a person types it */
	char *node;		/* /dev/mapper/... */
	char *uuid;
	unsigned int major;
	unsigned int minor;
};

/* One target line of a device, as listed by the kernel. */
struct dm_line {
	uint64_t start;		/* sectors */
	uint64_t length;
	char *type;
	char *params;
};

struct dm_state {
	struct dm_id id;
	bool read_only;
	bool suspended;
	bool deferred;
	bool inactive_table;
	int open_count;
	size_t nr_lines;
	struct dm_line *lines;
};

void dm_begin(bool noudevsync);
void dm_end(void);
int dm_check_control(void);
int dm_list_names(char ***names, size_t *nr);
void dm_free_names(char **names, size_t nr);
int dm_resolve(const char *arg, char **name);
int dm_read(const char *name, bool table, struct dm_state *state);
int dm_read_loaded(const char *name, struct dm_state *state);
void dm_state_free(struct dm_state *state);
int dm_create(const char *name, const char *uuid, struct dm_id *id);
int dm_load(const char *name, const struct dm_line *lines, size_t nr,
	    bool read_only);
int dm_resume(const char *name, double *when);
int dm_suspend(const char *name);
int dm_clear(const char *name);
int dm_message(const char *name, uint64_t sector, const char *text,
	       char **answer);
int dm_remove(const struct dm_id *id, bool deferred);
int dm_undo_create(const char *uuid);
void dm_id_free(struct dm_id *id);
int dm_ensure_node(const struct dm_id *id);
bool dm_target_known(void);
const char *dm_last_log(void);

/* guard.c: a second process that undoes a half-done change */
struct guard {
	int fd;
	pid_t pid;
	const char *path;	/* of the file that it may have to open */
};

/* When the guard undoes a change, and may do so again. */
enum guard_when {
	PARENT_GONE,		/* nor is it in a system call any more */
	PARENT_HANGS,		/* and may go on with what it is at */
	PARENT_GONE_LATE,	/* gone now; what it was at came after the undo */
};

/* Returns whether all is undone. */
typedef bool guard_undo_fn(void *arg, enum guard_when when);

int guard_start(struct guard *g, guard_undo_fn *undo, void *arg, bool lock);
int guard_keep(const struct guard *g);
int guard_ask(const struct guard *g);
int guard_open(const struct guard *g);
void guard_resume(const struct guard *g);
void guard_done(struct guard *g);
void guard_init(int argc, char **argv);
void signals_hold(void);
bool signals_pending(void);
void signals_forget(void);
void signals_release(void);

/* backing.c: the regular file */
struct backing {
	char *path;		/* absolute, no symbolic links */
	struct stat st;
	int fd;			/* O_PATH: holds the inode, opens nothing */
	bool writable;
};

int backing_open(const char *file, struct backing *b);
void backing_close(struct backing *b);
int copy_mode(int from, int to, mode_t mode);
int sync_folder(const char *file);
bool is_at(const char *path, const struct stat *st);

/* device.c: a dm-loop device as users see it */
struct loop_device {
	struct dm_id id;
	bool read_only;
	bool suspended;
	bool deferred;
	uint64_t start;		/* sectors */
	uint64_t length;
	struct table_line table;
	bool has_status;
	struct status_line status;
	bool has_backing;
	dev_t back_dev;
	uint64_t back_ino;
	uint64_t back_size;
};

int device_read(const char *name, struct loop_device **devs, size_t *nr);
int device_read_all(struct loop_device **devs, size_t *nr);
int device_list(struct loop_device **devs, size_t *nr);
void device_free(struct loop_device *devs, size_t nr);
bool device_on_file(const struct loop_device *dev, const struct stat *st);
bool device_has_file(const struct loop_device *dev);
bool device_loaded_file(const char *name, const struct stat *st);
char *device_using(const struct stat *st);

bool device_one_line(const struct loop_device *devs, size_t nr);
int device_open(const char *arg, const char *what, struct loop_device **devs,
		size_t *nr);

/* hold.c: a device that is suspended for a moment, and surely resumed */
struct hold {
	struct guard guard;
	const struct loop_device *dev;
	struct dm_state old;	/* its table, to go back to */
	struct loop_device *lines;	/* the same, and which files they are on */
	size_t nr_lines;
	uint64_t old_size;	/* of the file, in bytes */
	uint64_t new_size;	/* the same, unless it is being resized */
	/* before it is suspended, with the locks; how often we have it open */
	int (*check)(const void *arg, int own_opens);
	const void *arg;
	/* emptied before the device goes back: it cannot be resumed with it. Or NULL */
	const int *clone;
	bool suspended;
	double since;
	double seconds;		/* how long it was suspended */
	int kmsg;
	int lock;
	int *file_locks;
	size_t nr_file_locks;
};

double now(void);
int device_truncate(const struct loop_device *dev, uint64_t size);
int device_lock(const struct loop_device *dev);
int device_open_active(const char *arg, const char *what,
		       struct loop_device **devs, size_t *nr);
int hold_begin(struct hold *h, const struct loop_device *dev);
int hold_begin_refresh(struct hold *h, const struct loop_device *dev);
int hold_begin_resize(struct hold *h, const struct loop_device *dev,
		      uint64_t old_size, uint64_t new_size,
		      int (*check)(const void *arg, int own_opens),
		      const void *arg);
int hold_file(struct hold *h);
int hold_keep(const struct hold *h);
int hold_ask(const struct hold *h);
int hold_sync(const struct hold *h, int fd, uint64_t from);
int hold_load(const struct hold *h, uint64_t sectors);
int hold_load_params(const struct hold *h, char *params);
int hold_end(struct hold *h, int err);

/* fssize.c */
int content_size(const struct loop_device *dev, uint64_t *size,
		 const char **what);
int content_size_held(const struct loop_device *dev, uint64_t *size,
		      const char **what);

/* use.c */
char *device_holder(const struct loop_device *dev);
char *device_user(const struct loop_device *dev);
char *device_opener(const struct loop_device *dev, int own_opens);
char *device_mountpoint(const struct loop_device *dev);
bool lies_on(const struct dm_id *id, int fd, dev_t dev_nr);

/* extents.c: which parts of a file are not plain written data */
enum extent_state {
	EXTENT_MAPPED,
	EXTENT_HOLE,
	EXTENT_UNWRITTEN,
	EXTENT_SHARED,
};

struct extent {
	uint64_t start;		/* bytes */
	uint64_t length;
	uint64_t physical;
	enum extent_state state;
};

struct extent_map {
	int fd;
	uint64_t size;
	bool no_fiemap;
	uint64_t next;		/* where buf ends */
	size_t nr;
	size_t pos;
	struct extent *buf;
};

void extents_init(struct extent_map *map, int fd, uint64_t size);
void extents_seek(struct extent_map *map, uint64_t pos);
int extents_next(struct extent_map *map, struct extent *ext);
void extents_free(struct extent_map *map);

/* progress.c */
struct progress {
	const char *what;
	uint64_t total;
	uint64_t done;
	int tty;		/* or -1 */
	uint64_t started;	/* ns */
	uint64_t drawn;
};

void progress_start(struct progress *p, const char *what, uint64_t total);
void progress_add(struct progress *p, uint64_t bytes);
void progress_end(struct progress *p);

/* copy.c: an image that is written to meanwhile */
struct copy {
	int from;
	uint64_t offset;	/* where it starts in from; in to at 0 */
	int to;
	uint64_t size;
	bool all;		/* holes as zeroes */
	uint64_t changed;	/* bytes that the last pass wrote */
	const struct hold *hold;
	char *buf;
	char *old;
	struct progress progress;
};

void copy_init(struct copy *c);
void copy_free(struct copy *c);
int copy_pass(struct copy *c, const char *what, bool compare);
int copy_live(struct copy *c);
int copy_rest(struct copy *c, const struct hold *h);
int allocate_blocks(int fd, uint64_t pos, uint64_t end);
int check_room(const struct stat *from, uint64_t most, int to);

/* one file each */
int do_list(const struct options *opts);
int do_show_one(const struct options *opts);
int do_find(const struct options *opts);
int do_attach(const struct options *opts);
int do_detach(const struct options *opts);
int do_detach_all(const struct options *opts);
int do_prepare(const struct options *opts);
int do_set_capacity(const struct options *opts);
int do_refresh(const struct options *opts);
int do_snapshot(const struct options *opts);
int do_verify(const struct options *opts);
int do_defrag(const struct options *opts);
int do_replace(const struct options *opts);

void list_columns_help(void);
#endif
