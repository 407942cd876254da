"""Dumps written by hand, one a layout, in which every figure can be counted."""

from __future__ import annotations

ARM64 = """\
---[ Linear Mapping start ]---
0xffff000000000000-0xffff000000200000           2M PTE       RW NX SHD AF                UXN    MEM/NORMAL-TAGGED
0xffff000000200000-0xffff000002000000          30M PMD       ro NX SHD AF            BLK UXN    MEM/NORMAL
0xffff000002000000-0xffff000040000000         992M PMD       RW NX SHD AF        CON BLK UXN    MEM/NORMAL-TAGGED
0xffff000040000000-0xffff000080000000           1G PUD       RW NX SHD AF            BLK UXN    MEM/NORMAL-TAGGED
0xffff000080000000-0xffff008000000000         510G PUD
0xffff008000000000-0xffff800000000000      130560G PGD
---[ Linear Mapping end ]---
---[ Modules start ]---
0xffff800000000000-0xffff80007c000000        1984M PMD
0xffff80007c000000-0xffff80007c004000          16K PTE       ro x  SHD AF                UXN    MEM/NORMAL
0xffff80007c004000-0xffff80007c008000          16K PTE       RW NX SHD AF                UXN    MEM/NORMAL
0xffff80007c008000-0xffff80007c009000           4K PTE       RW x  SHD AF                UXN    MEM/NORMAL
0xffff80007c009000-0xffff80007c200000        2012K PTE
0xffff80007c200000-0xffff800080000000          62M PMD
---[ Modules end ]---
---[ vmalloc() area ]---
0xffff800080000000-0xffff800080010000          64K PTE       RW NX SHD AF        CON     UXN    MEM/NORMAL
0xffff800080010000-0xffff800080011000           4K PTE
0xffff800080011000-0xffff800080020000          60K PTE       RW NX SHD AF                UXN    MEM/NORMAL
0xffff800080020000-0xffff800080100000         896K PTE       RW NX SHD AF        CON     UXN    MEM/NORMAL
0xffff800080100000-0xffff800080101000           4K PTE F     RW NX SHD AF                UXN    MEM/NORMAL
0xffff800080101000-0xffff800080200000        1020K PTE
0xffff800080200000-0xffff800080800000           6M PMD       RW NX SHD AF            BLK UXN    MEM/NORMAL
0xffff800080800000-0xffff800080802000           8K PTE       RW NX SHD AF                UXN    DEVICE/nGnRE
0xffff800080802000-0xffff800080a00000        2040K PTE
0xffff800080a00000-0xffff8000c0000000        1014M PMD
---[ vmalloc() end ]---
0xffff8000c0000000-0x0000000000000000      131069G PGD
"""

X86_64 = """\
---[ User Space ]---
0x0000000000000000-0xffff800000000000    16777088T                               pgd
---[ Kernel Space ]---
0xffff800000000000-0xffff888000000000        8704G                               pgd
---[ Low Kernel Mapping ]---
0xffff888000000000-0xffff888000099000         612K     RW                 GLB NX pte
0xffff888000099000-0xffff88800009a000           4K     ro                 GLB x  pte
0xffff88800009a000-0xffff888000200000        1432K     RW                 GLB NX pte
0xffff888000200000-0xffff888040000000        1022M     RW         PSE     GLB NX pmd
0xffff888040000000-0xffff888080000000           1G     RW         PSE     GLB NX pud
0xffff888080000000-0xffff890000000000         510G                               pud
0xffff890000000000-0xffffc90000000000          64T                               pgd
---[ vmalloc() Area ]---
0xffffc90000000000-0xffffc90000004000          16K     RW                 GLB NX pte
0xffffc90000004000-0xffffc90000005000           4K                               pte
0xffffc90000005000-0xffffc90000006000           4K     RW     PCD         GLB NX pte
0xffffc90000006000-0xffffc90000200000        2024K                               pte
0xffffc90000200000-0xffffc90000600000           4M     RW         PSE     GLB NX pmd
0xffffc90000600000-0xffffc90040000000        1018M                               pmd
0xffffc90040000000-0xffffc98000000000         511G                               pud
---[ Vmemmap ]---
0xffffc98000000000-0xffffffff80000000       55806G                               pgd
---[ High Kernel Mapping ]---
0xffffffff80000000-0xffffffff81000000          16M                               pmd
0xffffffff81000000-0xffffffff81200000           2M     ro         PSE     GLB x  pmd
0xffffffff81200000-0xffffffffc0000000        1006M                               pmd
---[ Modules ]---
0xffffffffc0000000-0xffffffffc0001000           4K     RW                 GLB x  pte
0xffffffffc0001000-0xffffffffff000000     1032188K                               pte
---[ End Modules ]---
0xffffffffff000000-0x0000000000000000          16M                               pmd
"""

ARM64_TABLES = """\
---[ Linear Mapping start ]---
0xffff000000000000-0xffff1fffffffffff                  32T PGD
0xffff200000000000-0xffff207fffffffff                 512G PGD   TBL    NX UXN      RW
    0xffff200000000000-0xffff203fffffffff             256G PUD
    0xffff204000000000-0xffff20403fffffff               1G PUD   TBL    NX UXN      RW
      0xffff204000000000-0xffff2040001fffff             2M PMD   TBL    NX UXN      RW
        0xffff204000000000-0xffff20400000ffff          64K PTE       RW NX SHD AF NG CON     UXN    MEM/NORMAL-TAGGED
        0xffff204000010000-0xffff20400001ffff          64K PTE       RW X  SHD AF NG         UXN    MEM/NORMAL
        0xffff204000020000-0xffff2040001fffff        1920K PTE       RO NX SHD AF NG         UXN    MEM/NORMAL
      0xffff204000200000-0xffff2040005fffff             4M PMD       RW NX SHD AF NG     BLK UXN    MEM/NORMAL
      0xffff204000600000-0xffff20403fffffff          1018M PMD
    0xffff204040000000-0xffff207fffffffff             255G PUD
---[ Linear Mapping end ]---
0xffff208000000000-0xffffffffffffffff              228864G PGD
"""
"""Version 5 of the series: ends are the last byte, and words are in capitals."""

ARM64_TABLES_3 = """\
---[ vmalloc() area ]---
0xffff800080000000-0xffff800080000080         128B PGD   TBL     RW               x      UXNTbl    MEM/NORMAL
    0xffff800080000000-0xffff8000c0000000           1G PUD   TBL     RW               x      UXNTbl    MEM/NORMAL
      0xffff800080000000-0xffff800080200000           2M PMD   TBL     RW               x      NXTbl UXNTbl   MEM/NORMAL
        0xffff800080000000-0xffff800080001000           4K PTE           RW NX SHD AF NG     UXN    MEM/NORMAL
        0xffff800080001000-0xffff800080200000        2044K PTE F BLK     RW x                      MEM/NORMAL
      0xffff800080200000-0xffff800080600000           4M PMD   BLK     RW SHD AF NG     NX UXN x     x        MEM/NORMAL
      0xffff800080600000-0xffff8000c0000000        1018M PMD F BLK     RW               x      x     x        MEM/NORMAL
    0xffff8000c0000000-0xffff800100000000           1G PUD   BLK     RW SHD AF NG x              MEM/NORMAL
---[ vmalloc() end ]---
"""
"""Version 3: ends are exclusive, and a block has the words of a table's permissions as well."""

SAMPLES = {"arm64": ARM64, "arm64-tables": ARM64_TABLES, "x86_64": X86_64}
