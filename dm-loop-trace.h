/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints: what the worker does, one event when it is done.  Sectors of
 * 512 bytes, counted from the start of the file.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dm_loop

#if !defined(DM_LOOP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define DM_LOOP_TRACE_H

#include <linux/tracepoint.h>

#include "dm-loop.h"

DECLARE_EVENT_CLASS(dm_loop_range,
	TP_PROTO(const struct dm_loop_file *lf, sector_t sector,
		 sector_t sectors, int error),
	TP_ARGS(lf, sector, sectors, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, ino)
		__field(u64, sector)
		__field(u64, sectors)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = lf->inode->i_sb->s_dev;
		__entry->ino = lf->inode->i_ino;
		__entry->sector = sector;
		__entry->sectors = sectors;
		__entry->error = error;
	),
	TP_printk("dev %d:%d ino %llu sector %llu sectors %llu error %d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->ino,
		  __entry->sector, __entry->sectors, __entry->error)
);

#define DM_LOOP_RANGE_EVENT(name)					\
	DEFINE_EVENT(dm_loop_range, name,				\
		TP_PROTO(const struct dm_loop_file *lf, sector_t sector, \
			 sector_t sectors, int error),			\
		TP_ARGS(lf, sector, sectors, error))

/* A run of blocks was written for the first time. */
DM_LOOP_RANGE_EVENT(dm_loop_fill);
/* A range was entered into the extent table as mapped. */
DM_LOOP_RANGE_EVENT(dm_loop_promote);
/* A range was given back to the filesystem. */
DM_LOOP_RANGE_EVENT(dm_loop_punch);
/* The filesystem was called for a flush; the range is the whole file. */
DM_LOOP_RANGE_EVENT(dm_loop_commit);
/* Pages of the file were dropped from the page cache. */
DM_LOOP_RANGE_EVENT(dm_loop_invalidate);
/* A bio was done by file I/O. */
DM_LOOP_RANGE_EVENT(dm_loop_fallback);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE dm-loop-trace
#include <trace/define_trace.h>
