/* Who works on one problem: a thread alone, or the lanes of a warp together, a team.
 *
 * What takes few operations is done by the team's leader alone, what takes many is divided: TEAM_FOR(i, count) gives
 * each lane every TEAM-th i. What one lane wrote, another reads after team_meet() only. Alone, none of this is there.
 * Over the shim a team has MPCGEN_SHIM_LANES lanes: one, which does everything, or 32 that run at the same time. */
#ifndef MPCGEN_TEAM_H
#define MPCGEN_TEAM_H

#include "mpcgen_lane.h"

#if MPCGEN_WARP && (defined(__CUDACC__) || MPCGEN_SHIM_LANES > 1)
enum { TEAM = WARP };
INLINE int team_lane() { return (int)(threadIdx.x % TEAM); }
INLINE void team_meet() { __syncwarp(); }
/* Whether all lanes say yes. What they wrote before is not made known to the others: that takes team_meet(). */
INLINE int team_all(int yes) { return __all_sync(0xffffffffu, yes); }
#else
enum { TEAM = 1 };
INLINE int team_lane(void) { return 0; }
INLINE void team_meet(void) {}
INLINE int team_all(int yes) { return yes; }
#endif

/* A state that a team has one of. */
#if MPCGEN_WARP
#define TEAM_SHARED __shared__
#else
#define TEAM_SHARED
#endif

#define TEAM_FOR(i, count) for (int i = team_lane(); i < (int)(count); i += TEAM)
#define TEAM_LEADER if (team_lane() == 0)

#endif
