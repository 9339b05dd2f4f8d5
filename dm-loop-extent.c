// SPDX-License-Identifier: GPL-2.0-only
/*
 * dm-loop: the extent table of a backing file
 *
 * A sorted list without gaps of what the sectors of the file are: holes,
 * unwritten, mapped or shared blocks, and so on. Each bio asks it where to go, so a lookup
 * takes no lock and allocates nothing. Each first write to a hole changes it,
 * so a change must not cost more when the list is long.
 *
 * Hence two levels. The root is an array of leaves with the sector at which
 * each begins; a leaf is an array of some extents. Readers are
 * under RCU. A leaf never changes once it can be seen: an edited copy takes its
 * place in the root. As long as that copy covers the same sectors the root
 * stays, otherwise (leaves split, join, or several are touched) a new root
 * takes the place of the old one. Either way one store of a pointer makes the
 * whole change visible, so a reader sees all of it or nothing.
 *
 * An extent says where it starts; the next one says where it ends. A leaf
 * therefore has one extent more than it holds, a sentinel that starts where the
 * leaf ends.
 *
 * No two neighbours could be written as one extent, not even across two leaves,
 * and no two neighbouring leaves together hold LEAF_MIN_PAIR extents or fewer,
 * so a table that gets simpler gives its memory back.
 *
 * Nothing in here knows about files or devices; it also compiles in user space,
 * see test/unit.
 */
#include <linux/build_bug.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/overflow.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "dm-loop-extent.h"

/*
 * A full leaf with its sentinel fits 1024 bytes, and half a leaf, which a split
 * makes, 512: the sizes in which kmalloc hands out memory.  A change copies a
 * leaf, and with init_on_alloc, as Debian has it, kmalloc clears it before, so
 * it must be small; it copies the root only when a leaf splits, so the root may
 * be large.
 */
#define LEAF_MAX	56
#define LEAF_MIN_PAIR	(LEAF_MAX / 2)

#define STATE_BITS	3
#define STATE_MASK	((1U << STATE_BITS) - 1)

/* @where: the device's sector in the upper 61 bits, the state in the lower three */
struct dm_loop_extent {
	u64 start;
	u64 where;
};

struct dm_loop_leaf {
	union {
		struct rcu_head rcu;
		struct dm_loop_leaf *next;	/* while in a builder */
	};
	unsigned int nr;			/* without the sentinel */
	struct dm_loop_extent ext[];
};

/* @start: always that of the leaf's first extent; here to save a cache miss */
struct dm_loop_slot {
	u64 start;
	struct dm_loop_leaf __rcu *leaf;
};

struct dm_loop_root {
	struct rcu_head rcu;
	u64 end;
	unsigned int nr;
	struct dm_loop_slot slot[];
};

static_assert(sizeof(struct dm_loop_extent) == 16);
static_assert(sizeof(struct dm_loop_leaf) +
	      (LEAF_MAX + 1) * sizeof(struct dm_loop_extent) <= 1024);
static_assert(sizeof(struct dm_loop_leaf) +
	      (LEAF_MAX / 2 + 2) * sizeof(struct dm_loop_extent) <= 512);
static_assert(DM_LOOP_NR_STATES <= 1 << STATE_BITS);

/*
 * The two searches return the last element that starts at or before @sector;
 * the first one always does. They run the same number of rounds for every
 * sector and choose without a branch, because nothing could predict it.
 */
static const struct dm_loop_slot *find_slot(const struct dm_loop_root *root,
					    u64 sector)
{
	const struct dm_loop_slot *s = root->slot;
	unsigned int n = root->nr;

	while (n > 1) {
		unsigned int half = n / 2;

		s = s[half].start <= sector ? s + half : s;
		n -= half;
	}
	return s;
}

static const struct dm_loop_extent *find_extent(const struct dm_loop_leaf *leaf,
						u64 sector)
{
	const struct dm_loop_extent *e = leaf->ext;
	unsigned int n = leaf->nr;

	while (n > 1) {
		unsigned int half = n / 2;

		e = e[half].start <= sector ? e + half : e;
		n -= half;
	}
	return e;
}

static void unpack_extent(const struct dm_loop_extent *e,
			  struct dm_loop_range *r)
{
	r->start = e->start;
	r->len = e[1].start - e->start;
	r->phys = e->where >> STATE_BITS;
	r->state = e->where & STATE_MASK;
}

static struct dm_loop_extent pack_extent(const struct dm_loop_range *r)
{
	return (struct dm_loop_extent) {
		.start = r->start,
		.where = (u64)r->phys << STATE_BITS | r->state,
	};
}

/* May be given from anywhere, so it must not trust any of the numbers. */
static bool make_range(struct dm_loop_range *r, sector_t start, sector_t len,
		       enum dm_loop_state state, sector_t phys)
{
	if (!dm_loop_has_place(state))
		phys = 0;
	*r = (struct dm_loop_range) {
		.start = start, .len = len, .phys = phys, .state = state,
	};
	return len && len <= DM_LOOP_SECTOR_END &&
	       start <= DM_LOOP_SECTOR_END - len &&
	       phys <= DM_LOOP_SECTOR_END - len &&
	       (unsigned int)state < DM_LOOP_NR_STATES;
}

/* Can @b, which starts where @a ends, be part of the same extent? */
static bool can_merge(const struct dm_loop_range *a,
		      const struct dm_loop_range *b)
{
	return a->state == b->state &&
	       (!dm_loop_has_place(a->state) || a->phys + a->len == b->phys);
}

/* Keep what lies below @end. */
static void cut_tail(struct dm_loop_range *r, sector_t end)
{
	r->len = min(r->len, end - r->start);
}

/* Keep what lies at @start and above. */
static void cut_head(struct dm_loop_range *r, sector_t start)
{
	sector_t cut = start - r->start;

	r->start += cut;
	r->len -= cut;
	if (dm_loop_has_place(r->state))
		r->phys += cut;
}

/**
 * dm_loop_extents_lookup() - find the extent that holds a sector
 * @t: the table
 * @sector: sector of the file
 * @r: the whole extent, not only what follows @sector
 *
 * Context: Any. The caller is inside rcu_read_lock(), which also covers what it
 * does with the answer as far as that must not be overtaken by a change.
 *
 * Return: false when the table does not reach that far, or is empty; @r is
 * unchanged then.
 */
bool dm_loop_extents_lookup(const struct dm_loop_extents *t, sector_t sector,
			    struct dm_loop_range *r)
{
	const struct dm_loop_root *root = rcu_dereference(t->root);
	const struct dm_loop_leaf *leaf;

	if (!root || sector >= root->end)
		return false;
	leaf = rcu_dereference(find_slot(root, sector)->leaf);
	unpack_extent(find_extent(leaf, sector), r);
	return true;
}

/* Count what @leaf has between @start and @end; return where the leaf ends. */
static u64 count_leaf(const struct dm_loop_leaf *leaf, u64 start, u64 end,
		      struct dm_loop_counts *out)
{
	const struct dm_loop_extent *e = find_extent(leaf, start);
	const struct dm_loop_extent *stop = leaf->ext + leaf->nr;

	for (; e < stop && e->start < end; e++) {
		unsigned int state = e->where & STATE_MASK;

		out->extents[state]++;
		out->sectors[state] += min(e[1].start, end) -
				       max(e->start, start);
	}
	return stop->start;
}

/**
 * dm_loop_extents_count() - count extents and sectors by their state
 * @t: the table
 * @start: first sector of the file to look at
 * @len: number of sectors to look at
 * @out: the result
 *
 * An extent that lies partly in the range counts as one, with the sectors that
 * lie in it. What lies beyond the end of the table is not counted. The walk
 * leaves the RCU read section after each leaf; a table that changes at the
 * same time gives a result that is a little of both.
 *
 * Context: Process context, may sleep.
 */
void dm_loop_extents_count(const struct dm_loop_extents *t, sector_t start,
			   sector_t len, struct dm_loop_counts *out)
{
	const struct dm_loop_root *root;
	u64 at = start, end;

	memset(out, 0, sizeof(*out));
	if (check_add_overflow((u64)start, (u64)len, &end))
		end = U64_MAX;
	while (at < end) {
		rcu_read_lock();
		root = rcu_dereference(t->root);
		if (!root || at >= root->end) {
			rcu_read_unlock();
			break;
		}
		at = count_leaf(rcu_dereference(find_slot(root, at)->leaf),
				at, end, out);
		rcu_read_unlock();
		cond_resched();
	}
}

/* For writers: the caller's lock keeps the pointers as they are. */
static struct dm_loop_root *root_of(const struct dm_loop_extents *t)
{
	return rcu_dereference_protected(t->root, 1);
}

static struct dm_loop_leaf *leaf_of(const struct dm_loop_root *root,
				    unsigned int slot)
{
	return rcu_dereference_protected(root->slot[slot].leaf, 1);
}

static void free_root_rcu(struct dm_loop_root *root)
{
	unsigned int i;

	if (!root)
		return;
	for (i = 0; i < root->nr; i++)
		kvfree_rcu(leaf_of(root, i), rcu);
	kvfree_rcu(root, rcu);
}

/**
 * dm_loop_extents_leaves() - how large a table is
 * @t: the table
 *
 * Context: Under the lock of the writers.  Does not sleep.
 * Return: its leaves, up to 1 KiB each.
 */
unsigned int dm_loop_extents_leaves(const struct dm_loop_extents *t)
{
	const struct dm_loop_root *root = root_of(t);

	return root ? root->nr : 0;
}

/**
 * dm_loop_extents_destroy() - empty the table and free it
 * @t: the table
 *
 * Readers may still be inside: the memory is freed after a grace period. Those
 * that come later find an empty table.
 *
 * Context: Under the lock of the writers. Does not sleep.
 */
void dm_loop_extents_destroy(struct dm_loop_extents *t)
{
	struct dm_loop_root *root = root_of(t);

	RCU_INIT_POINTER(t->root, NULL);
	free_root_rcu(root);
}

static struct dm_loop_leaf *alloc_leaf(unsigned int nr, gfp_t gfp)
{
	struct dm_loop_leaf *leaf;

	leaf = kmalloc(struct_size(leaf, ext, nr + 1), gfp);
	if (leaf)
		leaf->nr = nr;
	return leaf;
}

static struct dm_loop_root *alloc_root(unsigned int nr, u64 end, gfp_t gfp)
{
	struct dm_loop_root *root;

	root = kvmalloc(struct_size(root, slot, nr), gfp);
	if (root) {
		root->end = end;
		root->nr = nr;
	}
	return root;
}

static void fill_slot(struct dm_loop_slot *slot, struct dm_loop_leaf *leaf)
{
	slot->start = leaf->ext[0].start;
	RCU_INIT_POINTER(slot->leaf, leaf);
}

/*
 * A change of the table: leaves first..last give way to the extents listed in
 * seg[]. At most three leaves come out of it: the two at the ends may be full,
 * and up to two extents come on top.
 */
enum { SEG_LEFT_LEAF, SEG_BEFORE, SEG_NEW, SEG_AFTER, SEG_RIGHT_LEAF, NR_SEGS };

#define EDIT_MAX_LEAVES	3

struct dm_loop_seg {
	const struct dm_loop_extent *ext;
	unsigned int nr;
};

struct dm_loop_edit {
	unsigned int first;
	unsigned int last;
	unsigned int nr;		/* extents in all the segments */
	struct dm_loop_seg seg[NR_SEGS];
	struct dm_loop_extent new[3];	/* a rest, the new one, a rest */
	struct dm_loop_leaf *leaf[EDIT_MAX_LEAVES];
	unsigned int nr_leaves;
	struct dm_loop_root *root;	/* NULL if the old one can stay */
};

/* A place in the table. */
struct dm_loop_pos {
	unsigned int slot;
	const struct dm_loop_leaf *leaf;
	const struct dm_loop_extent *ext;
};

static void find_pos(const struct dm_loop_root *root, u64 sector,
		     struct dm_loop_pos *pos)
{
	pos->slot = find_slot(root, sector) - root->slot;
	pos->leaf = leaf_of(root, pos->slot);
	pos->ext = find_extent(pos->leaf, sector);
}

static void edit_seg(struct dm_loop_edit *edit, unsigned int seg,
		     const struct dm_loop_extent *ext, unsigned int nr)
{
	edit->seg[seg].ext = ext;
	edit->seg[seg].nr = nr;
	edit->nr += nr;
}

static void edit_new(struct dm_loop_edit *edit, const struct dm_loop_range *r)
{
	edit->new[edit->seg[SEG_NEW].nr++] = pack_extent(r);
	edit->nr++;
}

/* To the extent before, which may be in another leaf; there must be one. */
static void step_back(const struct dm_loop_root *root, struct dm_loop_pos *pos)
{
	if (pos->ext == pos->leaf->ext) {
		pos->leaf = leaf_of(root, --pos->slot);
		pos->ext = pos->leaf->ext + pos->leaf->nr;
	}
	pos->ext--;
}

static void step_forward(const struct dm_loop_root *root,
			 struct dm_loop_pos *pos)
{
	if (++pos->ext == pos->leaf->ext + pos->leaf->nr) {
		pos->leaf = leaf_of(root, ++pos->slot);
		pos->ext = pos->leaf->ext;
	}
}

/*
 * What lies before the new range @r, which begins in the extent at @at: the
 * extent that ends at it becomes part of it if it can, even from another leaf.
 * What is left of an extent that @r cuts stays.
 */
static void edit_before(struct dm_loop_edit *edit,
			const struct dm_loop_root *root,
			struct dm_loop_range *r, struct dm_loop_pos at)
{
	struct dm_loop_pos prev = at;
	struct dm_loop_range left;

	if (r->start) {
		if (at.ext->start == r->start)
			step_back(root, &prev);
		unpack_extent(prev.ext, &left);
		cut_tail(&left, r->start);
		if (can_merge(&left, r)) {
			r->start = left.start;
			r->len += left.len;
			r->phys = left.phys;
			at = prev;
		} else if (prev.ext == at.ext) {
			edit_new(edit, &left);
		}
	}
	edit->first = at.slot;
	edit_seg(edit, SEG_BEFORE, at.leaf->ext, at.ext - at.leaf->ext);
}

/* The same for what lies after @r; adds @r itself as well. */
static void edit_after(struct dm_loop_edit *edit,
		       const struct dm_loop_root *root,
		       struct dm_loop_range *r, struct dm_loop_pos at)
{
	u64 end = r->start + r->len;
	struct dm_loop_range right = {};
	struct dm_loop_pos next;
	bool rest = false;

	if (end > at.ext[1].start)
		find_pos(root, end - 1, &at);
	if (end < root->end) {
		next = at;
		if (end == at.ext[1].start)
			step_forward(root, &next);
		unpack_extent(next.ext, &right);
		cut_head(&right, end);
		if (can_merge(r, &right)) {
			r->len += right.len;
			at = next;
		} else {
			rest = next.ext == at.ext;
		}
	}
	edit_new(edit, r);
	if (rest)
		edit_new(edit, &right);
	edit->last = at.slot;
	edit_seg(edit, SEG_AFTER, at.ext + 1,
		 at.leaf->ext + at.leaf->nr - (at.ext + 1));
}

/*
 * Take in the leaves on both sides if that leaves one small leaf. More than one
 * on a side never fits: those two would have been one before.
 */
static void edit_neighbours(struct dm_loop_edit *edit,
			    const struct dm_loop_root *root)
{
	const struct dm_loop_leaf *leaf;

	if (edit->first > 0) {
		leaf = leaf_of(root, edit->first - 1);
		if (edit->nr + leaf->nr <= LEAF_MIN_PAIR) {
			edit->first--;
			edit_seg(edit, SEG_LEFT_LEAF, leaf->ext, leaf->nr);
		}
	}
	if (edit->last + 1 < root->nr) {
		leaf = leaf_of(root, edit->last + 1);
		if (edit->nr + leaf->nr <= LEAF_MIN_PAIR) {
			edit->last++;
			edit_seg(edit, SEG_RIGHT_LEAF, leaf->ext, leaf->nr);
		}
	}
}

/* @edit: all zeroes; @at: where @r begins */
static void edit_plan(struct dm_loop_edit *edit,
		      const struct dm_loop_root *root, struct dm_loop_range *r,
		      const struct dm_loop_pos *at)
{
	edit->seg[SEG_NEW].ext = edit->new;
	edit_before(edit, root, r, *at);
	edit_after(edit, root, r, *at);
	edit_neighbours(edit, root);
	edit->nr_leaves = DIV_ROUND_UP(edit->nr, LEAF_MAX);
}

static void edit_free(struct dm_loop_edit *edit)
{
	unsigned int i;

	for (i = 0; i < edit->nr_leaves; i++)
		kfree(edit->leaf[i]);
}

/* All that can fail, before anything is changed. */
static int edit_alloc(struct dm_loop_edit *edit,
		      const struct dm_loop_root *old, gfp_t gfp)
{
	unsigned int n = edit->nr_leaves, replaced, i;

	for (i = 0; i < n; i++) {
		edit->leaf[i] = alloc_leaf(edit->nr / n + (i < edit->nr % n),
					   gfp);
		if (!edit->leaf[i])
			goto fail;
	}
	replaced = edit->last - edit->first + 1;
	if (n == 1 && replaced == 1)
		return 0;
	edit->root = alloc_root(old->nr - replaced + n, old->end, gfp);
	if (edit->root)
		return 0;
fail:
	edit_free(edit);
	return -ENOMEM;
}

/*
 * Take the next leaf->nr extents out of the segments, from @seg on.
 * Return: the segment where the next leaf goes on.
 */
static struct dm_loop_seg *edit_fill_leaf(struct dm_loop_seg *seg,
					  struct dm_loop_leaf *leaf)
{
	struct dm_loop_extent *to = leaf->ext;
	unsigned int left = leaf->nr, n;

	while (left) {
		n = min(left, seg->nr);
		if (!n) {
			seg++;
			continue;
		}
		memcpy(to, seg->ext, n * sizeof(*to));
		seg->ext += n;
		seg->nr -= n;
		to += n;
		left -= n;
	}
	return seg;
}

static void edit_fill(struct dm_loop_edit *edit,
		      const struct dm_loop_root *old)
{
	const struct dm_loop_leaf *last = leaf_of(old, edit->last);
	struct dm_loop_seg *seg = edit->seg;
	struct dm_loop_leaf *leaf;
	unsigned int i;

	for (i = 0; i < edit->nr_leaves; i++)
		seg = edit_fill_leaf(seg, edit->leaf[i]);
	for (i = 0; i < edit->nr_leaves; i++) {
		leaf = edit->leaf[i];
		if (i + 1 < edit->nr_leaves)
			leaf->ext[leaf->nr] = edit->leaf[i + 1]->ext[0];
		else
			leaf->ext[leaf->nr] = last->ext[last->nr];
	}
}

static void edit_fill_root(struct dm_loop_edit *edit,
			   const struct dm_loop_root *old)
{
	struct dm_loop_slot *slot = edit->root->slot;
	unsigned int after = old->nr - (edit->last + 1), i;

	memcpy(slot, old->slot, edit->first * sizeof(*slot));
	slot += edit->first;
	for (i = 0; i < edit->nr_leaves; i++)
		fill_slot(slot++, edit->leaf[i]);
	memcpy(slot, old->slot + edit->last + 1, after * sizeof(*slot));
}

static void edit_publish(struct dm_loop_edit *edit, struct dm_loop_extents *t,
			 struct dm_loop_root *old)
{
	struct dm_loop_leaf *leaf;
	unsigned int i;

	if (!edit->root) {
		leaf = leaf_of(old, edit->first);
		rcu_assign_pointer(old->slot[edit->first].leaf, edit->leaf[0]);
		kvfree_rcu(leaf, rcu);
		return;
	}
	edit_fill_root(edit, old);
	rcu_assign_pointer(t->root, edit->root);
	for (i = edit->first; i <= edit->last; i++)
		kvfree_rcu(leaf_of(old, i), rcu);
	kvfree_rcu(old, rcu);
}

/* Is @r a part of the extent @ext, which is just so already? */
static bool is_set(const struct dm_loop_extent *ext,
		   const struct dm_loop_range *r)
{
	struct dm_loop_range have;

	unpack_extent(ext, &have);
	cut_head(&have, r->start);
	return have.len >= r->len && have.state == r->state &&
	       have.phys == r->phys;
}

/**
 * dm_loop_extents_set() - put one range in the place of what was there
 * @t: the table
 * @start: first sector of the file
 * @len: number of sectors
 * @state: their new state
 * @phys: sector of the device where @start lies from now on; ignored where
 *	@state has no place
 * @gfp: how to allocate, see below
 *
 * Readers see the table before the change or after it, nothing in between. Those
 * that began earlier may use the old answer until they leave their read section:
 * who takes blocks out of the table and then gives them away waits for those.
 *
 * Costs the copy of a leaf (1 KiB); rarely, when leaves split or join, that of
 * the root too (16 bytes for each leaf).
 *
 * Context: Process context, under the lock of the writers. May sleep. @gfp is
 * GFP_KERNEL, since the root comes from kvmalloc(), which takes no less; where
 * I/O to the device itself must not be waited for, the caller sets
 * memalloc_noio_save().
 *
 * Return: 0; -EINVAL if the table does not cover the whole range, the range is
 * empty or a sector is out of bounds; -ENOMEM, and nothing has changed.
 */
int dm_loop_extents_set(struct dm_loop_extents *t, sector_t start,
			sector_t len, enum dm_loop_state state, sector_t phys,
			gfp_t gfp)
{
	struct dm_loop_root *root = root_of(t);
	struct dm_loop_edit edit = {};
	struct dm_loop_range r;
	struct dm_loop_pos at;

	if (!make_range(&r, start, len, state, phys))
		return -EINVAL;
	if (!root || start + len > root->end)
		return -EINVAL;
	find_pos(root, r.start, &at);
	if (is_set(at.ext, &r))
		return 0;
	edit_plan(&edit, root, &r, &at);
	if (edit_alloc(&edit, root, gfp))
		return -ENOMEM;
	edit_fill(&edit, root);
	edit_publish(&edit, t, root);
	return 0;
}

/**
 * dm_loop_builder_init() - begin a new table
 * @b: the builder
 * @size: number of sectors the table will cover, from the start of the file
 * @gfp: GFP_KERNEL, as for dm_loop_extents_set()
 *
 * Follow with dm_loop_builder_append() and end with either
 * dm_loop_builder_finish() or dm_loop_builder_abort().
 *
 * Context: Any.
 */
void dm_loop_builder_init(struct dm_loop_builder *b, sector_t size, gfp_t gfp)
{
	*b = (struct dm_loop_builder) { .size = size, .gfp = gfp };
}

/* Make room for one more extent, which will start at @start. */
static int builder_grow(struct dm_loop_builder *b, u64 start)
{
	struct dm_loop_leaf *leaf = b->last;

	if (leaf && leaf->nr < LEAF_MAX)
		return 0;
	leaf = alloc_leaf(LEAF_MAX, b->gfp);
	if (!leaf)
		return -ENOMEM;
	leaf->nr = 0;
	leaf->next = NULL;
	if (b->last) {
		b->last->ext[LEAF_MAX].start = start;
		b->last->ext[LEAF_MAX].where = 0;
		b->last->next = leaf;
	} else {
		b->first = leaf;
	}
	b->last = leaf;
	b->nr_leaves++;
	return 0;
}

/* The last extent: it ends where the next one would begin. */
static bool builder_merges(const struct dm_loop_builder *b,
			   const struct dm_loop_range *r)
{
	struct dm_loop_range last;

	if (!b->last)
		return false;
	unpack_extent(b->last->ext + b->last->nr - 1, &last);
	last.len = r->start - last.start;
	return can_merge(&last, r);
}

/* Add @r, which starts where the list ends. */
static int builder_put(struct dm_loop_builder *b, const struct dm_loop_range *r)
{
	int err;

	if (r->start < b->size && !builder_merges(b, r)) {
		err = builder_grow(b, r->start);
		if (err)
			return err;
		b->last->ext[b->last->nr++] = pack_extent(r);
	}
	b->next = r->start + r->len;
	return 0;
}

/* A hole up to @end, if there is a gap. */
static int builder_put_gap(struct dm_loop_builder *b, sector_t end)
{
	struct dm_loop_range hole;

	if (b->next >= end)
		return 0;
	make_range(&hole, b->next, end - b->next, DM_LOOP_HOLE, 0);
	return builder_put(b, &hole);
}

/**
 * dm_loop_builder_append() - add a range of the file
 * @b: the builder
 * @start: first sector of the file, not below the end of the range before
 * @len: number of sectors
 * @state: their state
 * @phys: sector of the device where @start lies; ignored where @state has no
 *	place
 *
 * A gap before it becomes a hole. A range that continues the one before becomes
 * part of it. What lies beyond the size given to dm_loop_builder_init() is left
 * out, so that blocks allocated beyond the end of the file need no care.
 *
 * Context: Process context, may sleep.
 *
 * Return: 0; -EINVAL if the range is empty, out of order, overlaps the one
 * before, or a sector is out of bounds; -ENOMEM. The same call may be repeated
 * after -ENOMEM.
 */
int dm_loop_builder_append(struct dm_loop_builder *b, sector_t start,
			   sector_t len, enum dm_loop_state state,
			   sector_t phys)
{
	struct dm_loop_range r;
	int err;

	if (!make_range(&r, start, len, state, phys) || start < b->next)
		return -EINVAL;
	err = builder_put_gap(b, start);
	return err ?: builder_put(b, &r);
}

static struct dm_loop_root *builder_root(struct dm_loop_builder *b)
{
	struct dm_loop_leaf *leaf = b->first, *next;
	struct dm_loop_root *root;
	unsigned int i;

	root = alloc_root(b->nr_leaves, b->size, b->gfp);
	if (!root)
		return NULL;
	b->last->ext[b->last->nr].start = b->size;
	b->last->ext[b->last->nr].where = 0;
	for (i = 0; leaf; leaf = next) {
		next = leaf->next;
		fill_slot(&root->slot[i++], leaf);
	}
	return root;
}

/**
 * dm_loop_builder_finish() - publish the table
 * @b: the builder, which is empty afterwards whatever the result
 * @t: where to publish; a table that was there before is freed
 *
 * What has not been appended up to the size is a hole. A size of 0 makes an
 * empty table. Readers see the whole new table or the whole old one.
 *
 * Context: Process context, under the lock of the writers of @t, may sleep.
 *
 * Return: 0; -EINVAL if the size is out of bounds; -ENOMEM, and @t is unchanged.
 */
int dm_loop_builder_finish(struct dm_loop_builder *b,
			   struct dm_loop_extents *t)
{
	struct dm_loop_root *old = root_of(t), *root = NULL;
	int err = -EINVAL;

	if (b->size > DM_LOOP_SECTOR_END)
		goto fail;
	err = builder_put_gap(b, b->size);
	if (err)
		goto fail;
	if (b->size) {
		err = -ENOMEM;
		root = builder_root(b);
		if (!root)
			goto fail;
	}
	rcu_assign_pointer(t->root, root);
	free_root_rcu(old);
	dm_loop_builder_init(b, 0, b->gfp);
	return 0;
fail:
	dm_loop_builder_abort(b);
	return err;
}

/**
 * dm_loop_builder_abort() - throw away what has been appended
 * @b: the builder, which is empty afterwards
 *
 * Does no harm after dm_loop_builder_finish().
 *
 * Context: Process context.
 */
void dm_loop_builder_abort(struct dm_loop_builder *b)
{
	struct dm_loop_leaf *leaf = b->first, *next;

	for (; leaf; leaf = next) {
		next = leaf->next;
		kfree(leaf);
	}
	dm_loop_builder_init(b, 0, b->gfp);
}
