/* SPDX-License-Identifier: Apache-2.0
 *
 * Passes everything. On veth, an XDP program is what makes an interface receive
 * frames that its peer's side redirects to it.
 */
#include "stateplane.h"

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "Apache-2.0";
