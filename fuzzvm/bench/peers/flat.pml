/*
 * The flat model of fuzzvm/bench/flat_model.py: one transition here is one step there, in the same order.
 * Give N (slots), WALKERS and SCHEME (0 none, 1 static-key, 2 static-key-enable) with -D.
 * What a local variable held is reset where it is dead, as the other model forgets it there.
 * An end label on a blocked statement keeps processes from dying, which would be steps of their own.
 */
#define TABLE 1
#define HUGE 2

byte slot[N] = TABLE;
bit freed[N];
short lock;	/* -1: a writer; else the number of readers */
byte site;	/* 0: a NOP */

active proctype promoter()
{
	short i;

end:	do
	:: (i < N && slot[i] == TABLE);
		slot[i] = 0;
		skip;	/* flush */
#if SCHEME != 0
		if
		:: (site != 0);
			d_step { lock >= 0 -> lock++ };
			lock--
		:: (site == 0)
		fi;
#endif
		freed[i] = 1;
		d_step { slot[i] = HUGE; i++ }
	od
}

active [WALKERS] proctype walker()
{
	short i;

#if SCHEME == 1
	site++;
#elif SCHEME == 2
	site = 1;
#endif
	d_step { lock == 0 -> lock = -1 };
	do
	:: (i < N && slot[i] == TABLE);
		d_step { assert(!freed[i]); i++ }
	:: d_step { (i < N && slot[i] != TABLE) -> i++ }
	:: d_step { i == N -> lock = 0; i = 0 };
		break
	od;
#if SCHEME == 1
	site--;
#elif SCHEME == 2
	site = 0;
#endif
end:	(false)
}
