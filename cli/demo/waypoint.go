package demo

import (
	"context"
	"fmt"

	"github.com/tulle-mesh/tulle/mesh/token"
)

// Waypoint is the process name of the waypoint in a pod.
func Waypoint(pod string) string { return "waypoint-" + pod }

// StartWaypoint runs a waypoint in a pod that runs nothing else, and waits until it is ready. The pod's labels and objects in the mesh folder say
// of which Gateway it is an instance.
func (c *Cluster) StartWaypoint(ctx context.Context, name string, env ...string) error {
	_, pod, err := c.spec.pod(name)
	if err != nil {
		return err
	}
	text, err := c.MintToken(token.Claims{Node: pod.Node, Account: pod.Namespace + "/" + pod.Account, TTL: tokenTTL})
	if err != nil {
		return err
	}
	file := c.TokenFile(name)
	if err := writeFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the token of %s: %w", name, err)
	}
	_, err = c.run(launch{name: Waypoint(name), netns: c.nets[name], args: []string{c.spec.Programs.Waypoint, "proxy", "waypoint"}, env: append([]string{
		`PROXY_CONFIG={"discoveryAddress":"` + c.ControlPlane().String() + `"}`,
		"XDS_ROOT_CA=" + c.RootFile(), "CA_ROOT_CA=" + c.RootFile(), "ALT_XDS_HOSTNAME=" + ControlPlaneName, "ALT_CA_HOSTNAME=" + ControlPlaneName,
		"AUTH_TOKEN=" + file, "NODE_NAME=" + pod.Node, "POD_NAME=" + name, "POD_NAMESPACE=" + pod.Namespace, "SERVICE_ACCOUNT=" + pod.Account,
		"GATEWAY_NAME=" + pod.Labels["gateway.networking.k8s.io/gateway-name"], "INSTANCE_IP=" + c.PodAddrs(name)[0].String(), "GORACE=halt_on_error=0",
	}, env...)})
	if err != nil {
		return err
	}
	return c.awaitURL(ctx, Waypoint(name), name, "http://127.0.0.1:15021/healthz/ready")
}
