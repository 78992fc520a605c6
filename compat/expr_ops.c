/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * libnftnl finds the code of an expression in one table that names all forty, so all of them are
 * linked: 40 KB of NAT, tunnels and flow tables that no rule of ours has. This takes the place of
 * that table (libnftnl's src object expr_ops.o, whose only symbol it defines) with the expressions
 * that src/nft/kernel builds. Any other name is "unknown" to libnftnl, as a newer kernel's would
 * be. The structures themselves stay libnftnl's: only their addresses are taken here.
 */
#include <stddef.h>
#include <string.h>

struct expr_ops;

#define EXPRESSIONS(of) \
	of(bitwise) of(byteorder) of(cmp) of(counter) of(ct) of(immediate) of(log) of(lookup) \
	of(meta) of(payload) of(reject)

#define DECLARE(name) extern struct expr_ops expr_ops_##name;
EXPRESSIONS(DECLARE)

struct expr_ops *nftnl_expr_ops_lookup(const char *type);

struct expr_ops *nftnl_expr_ops_lookup(const char *type)
{
#define FIND(name) \
	if (strcmp(type, #name) == 0) \
		return &expr_ops_##name;
	EXPRESSIONS(FIND)
	return NULL;
}
