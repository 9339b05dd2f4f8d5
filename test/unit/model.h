/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the extent table should say, in the plainest form: an array with the
 * state and the place of each sector. There is one right list of extents for
 * it, that of the longest runs, so a table either equals it or is wrong.
 */
#ifndef MODEL_H
#define MODEL_H

#include "table.h"

struct model {
	u64 size;
	struct {
		enum dm_loop_state state;
		u64 phys;
	} *sector;
};

static void model_set(struct model *m, u64 start, u64 len,
		      enum dm_loop_state state, u64 phys)
{
	u64 i;

	for (i = 0; i < len; i++) {
		m->sector[start + i].state = state;
		m->sector[start + i].phys =
			dm_loop_has_place(state) ? phys + i : 0;
	}
}

static void model_init(struct model *m, u64 size)
{
	m->size = size;
	m->sector = calloc(size, sizeof(*m->sector));
	if (!m->sector)
		abort();
}

static void model_free(struct model *m)
{
	free(m->sector);
}

/* The longest run that starts at @start. */
static struct dm_loop_range model_run(const struct model *m, u64 start)
{
	struct dm_loop_range r = {
		.start = start, .len = 1,
		.state = m->sector[start].state,
		.phys = m->sector[start].phys,
	};

	for (; start + r.len < m->size; r.len++) {
		if (m->sector[start + r.len].state != r.state)
			break;
		if (dm_loop_has_place(r.state) &&
		    m->sector[start + r.len].phys != r.phys + r.len)
			break;
	}
	return r;
}

/* Every run is an extent, found from its first and its last sector. */
static const char *model_compare_answers(const struct model *m,
					 const struct dm_loop_extents *t)
{
	struct dm_loop_range want, first, last;
	u64 at;

	for (at = 0; at < m->size; at += want.len) {
		want = model_run(m, at);
		if (!look_up(t, at, &first) ||
		    !look_up(t, at + want.len - 1, &last))
			return "a sector that is not found";
		if (!same_range(&want, &first) || !same_range(&want, &last))
			return "an extent that is not like the model";
	}
	if (look_up(t, m->size, &first) || look_up(t, U64_MAX, &first))
		return "a sector beyond the end";
	return NULL;
}

static const char *model_compare(const struct model *m,
				 const struct dm_loop_extents *t)
{
	return model_compare_answers(m, t) ?: check_table(t);
}

static const char *model_compare_count(const struct model *m,
				       const struct dm_loop_extents *t,
				       u64 start, u64 len)
{
	struct dm_loop_counts want = {}, have;
	u64 at, end, run;

	dm_loop_extents_count(t, start, len, &have);
	end = start + len < m->size ? start + len : m->size;
	for (at = start; at < end; at += run) {
		struct dm_loop_range r = model_run(m, at);

		run = at + r.len < end ? r.len : end - at;
		want.extents[r.state]++;
		want.sectors[r.state] += run;
	}
	return memcmp(&want, &have, sizeof(want)) ? "wrong counts" : NULL;
}

/* Build @t from the model; leave out the holes if @gaps. */
__maybe_unused
static int model_build(const struct model *m, struct dm_loop_extents *t,
		       bool gaps)
{
	struct dm_loop_builder b;
	struct dm_loop_range r;
	int err = 0;
	u64 at;

	dm_loop_builder_init(&b, m->size, GFP_KERNEL);
	for (at = 0; at < m->size && !err; at += r.len) {
		r = model_run(m, at);
		if (r.state == DM_LOOP_HOLE && gaps)
			continue;
		err = dm_loop_builder_append(&b, r.start, r.len, r.state,
					     r.phys);
	}
	if (!err)
		return dm_loop_builder_finish(&b, t);
	dm_loop_builder_abort(&b);
	return err;
}

#endif /* MODEL_H */
