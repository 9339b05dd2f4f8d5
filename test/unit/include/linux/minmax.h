/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_LINUX_MINMAX_H
#define SHIM_LINUX_MINMAX_H

/* As strict about types as the kernel's. */
#define shim_pick(x, op, y) ({			\
	__auto_type _x = (x);			\
	__auto_type _y = (y);			\
	(void)(&_x == &_y);			\
	_x op _y ? _x : _y; })

#define min(x, y) shim_pick(x, <, y)
#define max(x, y) shim_pick(x, >, y)

#endif /* SHIM_LINUX_MINMAX_H */
