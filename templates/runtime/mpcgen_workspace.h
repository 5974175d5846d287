/* Workspaces that count themselves.
 *
 * What an algorithm keeps in its workspace is one list, ARRAY(name, how many numbers) by turns; from it follow the
 * members of its state, their places and the workspace's size. A list reads `n`, the horizon, and `rows`, those of
 * theta_stage, wherever it is used: where both are constants the size is one too, and the memory can be static. */
#ifndef MPCGEN_WORKSPACE_H
#define MPCGEN_WORKSPACE_H

#define DECLARE_ARRAY(name, count) reals name;
#define COUNT_ARRAY(name, count) +(size_t)(count) /* a list's terms, for what comes before to be added to */
/* From `at` on, in the state `s`; `at` moves on to what follows. */
#define PLACE_ARRAY(name, count) s->name = at, at += (count);

#endif
