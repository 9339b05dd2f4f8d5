/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The extent table from inside: the tests include its source, so that they can
 * see whether the table is well formed, not only what it answers.
 */
#ifndef TABLE_H
#define TABLE_H

#include "dm-loop-extent.c"
#include "shim.h"
#include "tap.h"

static const char *check_leaf(const struct dm_loop_leaf *leaf, u64 start,
			      u64 end)
{
	unsigned int i;

	if (!leaf->nr || leaf->nr > LEAF_MAX)
		return "number of extents in a leaf";
	if (leaf->ext[0].start != start)
		return "a leaf does not start where the root says";
	if (leaf->ext[leaf->nr].start != end)
		return "a leaf does not end where the next one starts";
	for (i = 0; i < leaf->nr; i++) {
		if (leaf->ext[i].start >= leaf->ext[i + 1].start)
			return "not ascending";
		if (!dm_loop_has_place(leaf->ext[i].where & STATE_MASK) &&
		    leaf->ext[i].where >> STATE_BITS)
			return "a place where there is none";
	}
	return NULL;
}

/* Two neighbours: could they be one? @prev is in an earlier leaf or this one. */
static const char *check_merged(const struct dm_loop_extent *prev,
				const struct dm_loop_extent *e)
{
	struct dm_loop_range a, b;

	unpack_extent(prev, &a);
	unpack_extent(e, &b);
	return can_merge(&a, &b) ? "neighbours that are not merged" : NULL;
}

static const char *check_root(const struct dm_loop_root *root)
{
	const struct dm_loop_extent *prev = NULL;
	const struct dm_loop_leaf *leaf;
	unsigned int i, j, prev_nr = 0;
	const char *bad;

	if (!root->nr || root->slot[0].start)
		return "the root does not start at 0";
	for (i = 0; i < root->nr; i++) {
		leaf = leaf_of(root, i);
		bad = check_leaf(leaf, root->slot[i].start, i + 1 < root->nr ?
				 root->slot[i + 1].start : root->end);
		if (bad)
			return bad;
		for (j = 0; j < leaf->nr; prev = &leaf->ext[j++]) {
			bad = prev ? check_merged(prev, &leaf->ext[j]) : NULL;
			if (bad)
				return bad;
		}
		if (i && prev_nr + leaf->nr <= LEAF_MIN_PAIR)
			return "two leaves that should be one";
		prev_nr = leaf->nr;
	}
	return NULL;
}

/* What is wrong with the table, or NULL. It must be the only one there is. */
__maybe_unused
static const char *check_table(const struct dm_loop_extents *t)
{
	const struct dm_loop_root *root = root_of(t);
	const char *bad = root ? check_root(root) : NULL;

	if (bad)
		return bad;
	rcu_barrier();
	if (shim_live() != (root ? root->nr + 1 : 0))
		return "memory that is in no table";
	return NULL;
}

__maybe_unused
static unsigned int table_leaves(const struct dm_loop_extents *t)
{
	return root_of(t) ? root_of(t)->nr : 0;
}

__maybe_unused
static u64 table_extents(const struct dm_loop_extents *t)
{
	u64 n = 0;
	unsigned int i;

	for (i = 0; i < table_leaves(t); i++)
		n += leaf_of(root_of(t), i)->nr;
	return n;
}

/* A lookup by somebody who is not a reader yet. */
__maybe_unused
static bool look_up(const struct dm_loop_extents *t, sector_t sector,
		    struct dm_loop_range *r)
{
	bool found;

	rcu_read_lock();
	found = dm_loop_extents_lookup(t, sector, r);
	rcu_read_unlock();
	return found;
}

__maybe_unused
static bool same_range(const struct dm_loop_range *a,
		       const struct dm_loop_range *b)
{
	return a->start == b->start && a->len == b->len &&
	       a->phys == b->phys && a->state == b->state;
}

#endif /* TABLE_H */
