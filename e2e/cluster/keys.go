package cluster

import (
	"encoding/base64"
	"fmt"
	"os"

	"github.com/tulle-mesh/tulle/e2e/keys"
)

// writeKeys makes all keys, certificates and kubeconfigs of a cluster.
func (s Spec) writeKeys() error {
	authority, err := keys.NewAuthority()
	if err != nil {
		return err
	}
	signer, err := keys.Signer()
	if err != nil {
		return err
	}
	api, err := authority.Server("kube-apiserver", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "127.0.0.1", s.Kubernetes().String(), s.Address(1).String())
	if err != nil {
		return err
	}
	kubelet, err := authority.Client("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": authority.PEM, "sa.key": signer.Private, "sa.pub": signer.Public,
		"apiserver.crt": api.Public, "apiserver.key": api.Private, "kubelet-client.crt": kubelet.Public, "kubelet-client.key": kubelet.Private,
	}
	users := map[string][2]string{
		"admin": {"admin", "system:masters"}, "kube-controller-manager": {"system:kube-controller-manager", "system:kube-controller-manager"},
		"kube-scheduler": {"system:kube-scheduler", "system:kube-scheduler"}, "kube-proxy": {"system:kube-proxy", "system:kube-proxy"},
	}
	for node := 1; node <= s.Nodes; node++ {
		name := s.NodeName(node)
		users[name] = [2]string{"system:node:" + name, "system:nodes"}
		serving, err := authority.Server(name, name, s.Address(node).String())
		if err != nil {
			return err
		}
		files[name+"-serving.crt"], files[name+"-serving.key"] = serving.Public, serving.Private
	}
	for name, user := range users {
		client, err := authority.Client(user[0], user[1])
		if err != nil {
			return err
		}
		files[name+".conf"] = s.kubeconfig(authority.PEM, client)
	}
	if err := os.MkdirAll(s.Key(""), 0o700); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(s.Key(name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) kubeconfig(ca []byte, client keys.Pair) []byte {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: tulle, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: tulle, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: tulle, context: {cluster: tulle, user: tulle}}]
current-context: tulle
`, s.API(), encode(ca), encode(client.Public), encode(client.Private))
}
