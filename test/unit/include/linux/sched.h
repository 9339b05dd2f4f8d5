/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_LINUX_SCHED_H
#define SHIM_LINUX_SCHED_H

#include <linux/rcupdate.h>

#define cond_resched() shim_might_sleep()

#endif /* SHIM_LINUX_SCHED_H */
