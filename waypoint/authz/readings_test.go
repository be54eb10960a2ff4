package authz_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/authz"
)

// What a policy keeps from clients, or for them, is kept however the server reads the path.
func TestAPathIsAllowedAsEveryServerReadsIt(t *testing.T) {
	deny := set(t, `action:DENY rules{to{paths{any{prefix:"/admin"} any{prefix:"/public/admin"}}}}`)
	allow := set(t, `action:ALLOW rules{to{paths{any{prefix:"/public/"}}}}`)
	for path, want := range map[string]bool{
		"/public/a": true, "/public//a": true, "/public/a;b": true, "/public/a%2Fb//c": true,
		"/public/..;/admin": false, "/public/..;x=y/admin/z": false, "/public/..%2Fadmin": false, "/public//..%2Fadmin": false, "/public/.;/admin": false,
		"/public%2F..;/admin": false, "//admin": false, "/public%2Fadmin": false, "/public/..;/other": false,
	} {
		for name, sets := range map[string][]*authz.Set{"deny": {deny}, "allow": {deny, allow}} {
			expected := want || name == "deny" && path == "/public/..;/other"
			if v := authz.Evaluate(sets, asked(t, client, "GET h"+path, "")); v.Allowed != expected {
				t.Errorf("%s: %s: %+v", name, path, v)
			}
		}
	}
}
