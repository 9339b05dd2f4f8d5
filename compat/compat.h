/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What older kernels lack.  The main code is written for the newest kernel;
 * this header is force-included and gives the older ones the same names.
 * The HAVE_* symbols come from Kbuild.include.
 */
#ifndef DM_LOOP_COMPAT_H
#define DM_LOOP_COMPAT_H

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/fileattr.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/slab.h>
#include <linux/srcu.h>

/* Before 6.3 leases were in fs.h. */
#ifdef HAVE_FILELOCK_H
#include <linux/filelock.h>
#endif

/* smp_load_acquire() of a sector_t */
#ifndef CONFIG_64BIT
#error "dm-loop needs a 64-bit kernel"
#endif

/* TINY_SRCU can be left only by who entered it, and not in an interrupt. */
#ifdef CONFIG_TINY_SRCU
#error "dm-loop needs a kernel for several processors (CONFIG_SMP)"
#endif

#ifndef CONFIG_SWAP
#error "dm-loop pins files with S_SWAPFILE, which needs CONFIG_SWAP"
#endif

/*
 * Such a kernel makes huge pages of a file that nobody has open for writing, and
 * so it takes ours (inode_is_open_for_write()).
 */
#ifdef CONFIG_READ_ONLY_THP_FOR_FS
#error "dm-loop needs a kernel without CONFIG_READ_ONLY_THP_FOR_FS"
#endif

/* Since 7.0 an allocation names the object, not its size. */
#ifndef kmalloc_obj
#define kmalloc_obj(object, gfp) kmalloc(sizeof(object), gfp)
#define kzalloc_obj(object, gfp) kzalloc(sizeof(object), gfp)
#endif

/* Before 6.5 block devices were opened with fmode_t. */
#ifndef BLK_OPEN_WRITE
#define BLK_OPEN_WRITE FMODE_WRITE
#endif

/* Before 6.14 a worker was running when it was created. */
#ifndef kthread_run_worker
#define kthread_run_worker kthread_create_worker
#endif

/* Before 6.14 there were no pre-content (HSM) watchers. */
#ifndef FMODE_FSNOTIFY_HSM
#define FMODE_FSNOTIFY_HSM(mode) false
#endif

/*
 * srcu_down_read() came in 6.3.  The functions below are what it calls:
 * like srcu_read_lock(), but the other half may run in another context.
 */
#ifndef HAVE_SRCU_DOWN_READ
static inline int srcu_down_read(struct srcu_struct *ssp)
{
	return __srcu_read_lock(ssp);
}

static inline void srcu_up_read(struct srcu_struct *ssp, int idx)
{
	__srcu_read_unlock(ssp, idx);
}
#endif

/* Renamed in 6.17. */
#ifndef HAVE_FILE_KATTR
#define file_kattr fileattr
#endif

#endif
