/* Numbers of CPU features. */
#define NCAPINTS			2
#define X86_FEATURE_ALWAYS		( 0*32+21) /* a CPU of any kind */
#define X86_FEATURE_SMALL		( 1*32+ 3) /* what some CPUs have */
#define X86_BUG(x)			(NCAPINTS*32 + (x))
#define X86_BUG_SMALL			X86_BUG(1) /* what is wrong with some */
