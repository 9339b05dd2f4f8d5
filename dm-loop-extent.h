/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dm-loop: the extent table of a backing file
 *
 * The functions are documented in dm-loop-extent.c.
 */
#ifndef DM_LOOP_EXTENT_H
#define DM_LOOP_EXTENT_H

#include <linux/rcupdate.h>
#include <linux/types.h>

struct dm_loop_leaf;
struct dm_loop_root;

/*
 * The numbers are stored in three bits of each extent.  Those that name no
 * sector of the device come first.
 */
enum dm_loop_state {
	DM_LOOP_HOLE,		/* no blocks */
	DM_LOOP_FILLED,		/* blocks hold data; where was not asked yet */
	DM_LOOP_UNWRITTEN,	/* blocks allocated, their content undefined */
	DM_LOOP_MAPPED,		/* blocks hold data */
	DM_LOOP_SHARED,		/* blocks hold data and belong to another file too */
};

#define DM_LOOP_NR_STATES	5

/**
 * dm_loop_has_place() - is it known where on the device such sectors are?
 * @state: theirs
 *
 * Context: Any.
 */
static inline bool dm_loop_has_place(enum dm_loop_state state)
{
	return state > DM_LOOP_FILLED;
}

/**
 * dm_loop_has_no_data() - do such sectors read as zeroes?
 * @state: theirs
 *
 * The first write to them has to go through the filesystem.
 *
 * Context: Any.
 */
static inline bool dm_loop_has_no_data(enum dm_loop_state state)
{
	return state == DM_LOOP_HOLE || state == DM_LOOP_UNWRITTEN;
}

/* Sectors of the file and of the device are below this. */
#define DM_LOOP_SECTOR_END	((sector_t)1 << 61)

/**
 * struct dm_loop_range - a run of sectors of the file in one state
 * @start: first sector, counted from the start of the file
 * @len: number of sectors
 * @phys: sector of the device where @start lies, 0 where there is none
 * @state: the state of all its sectors
 */
struct dm_loop_range {
	sector_t start;
	sector_t len;
	sector_t phys;
	enum dm_loop_state state;
};

/**
 * struct dm_loop_counts - what a part of the table consists of
 * @extents: number of extents in each state
 * @sectors: number of sectors in each state
 */
struct dm_loop_counts {
	u64 extents[DM_LOOP_NR_STATES];
	u64 sectors[DM_LOOP_NR_STATES];
};

/**
 * struct dm_loop_extents - the extent table of a file
 * @root: the table, NULL when it is empty (all zeroes is an empty table)
 *
 * Meant to be embedded. Readers use rcu_read_lock(); all that change the table
 * hold one lock of the owner's, one that allows to sleep.
 */
struct dm_loop_extents {
	struct dm_loop_root __rcu *root;
};

/**
 * struct dm_loop_builder - a table being made from a list of extents
 * @first: the leaves so far
 * @last: the leaf being filled
 * @nr_leaves: number of leaves
 * @next: end of what has been appended
 * @size: end of the table
 * @gfp: how to allocate
 */
struct dm_loop_builder {
	struct dm_loop_leaf *first;
	struct dm_loop_leaf *last;
	unsigned int nr_leaves;
	sector_t next;
	sector_t size;
	gfp_t gfp;
};

void dm_loop_builder_init(struct dm_loop_builder *b, sector_t size, gfp_t gfp);
int dm_loop_builder_append(struct dm_loop_builder *b, sector_t start,
			   sector_t len, enum dm_loop_state state,
			   sector_t phys);
int dm_loop_builder_finish(struct dm_loop_builder *b,
			   struct dm_loop_extents *t);
void dm_loop_builder_abort(struct dm_loop_builder *b);

bool dm_loop_extents_lookup(const struct dm_loop_extents *t, sector_t sector,
			    struct dm_loop_range *r);
int dm_loop_extents_set(struct dm_loop_extents *t, sector_t start,
			sector_t len, enum dm_loop_state state, sector_t phys,
			gfp_t gfp);
void dm_loop_extents_count(const struct dm_loop_extents *t, sector_t start,
			   sector_t len, struct dm_loop_counts *out);
unsigned int dm_loop_extents_leaves(const struct dm_loop_extents *t);
void dm_loop_extents_destroy(struct dm_loop_extents *t);

#endif /* DM_LOOP_EXTENT_H */
