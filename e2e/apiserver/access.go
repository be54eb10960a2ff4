package apiserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// connect makes the clients of an administrator. They have no rate limit.
func (s *Server) connect() (err error) {
	admin, err := s.authority.Client("admin", "system:masters")
	if err != nil {
		return err
	}
	s.admin = &rest.Config{
		Host: "https://" + s.apiAddr, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.PEM, CertData: admin.Public, KeyData: admin.Private},
	}
	if s.client, err = kubernetes.NewForConfig(s.binary()); err != nil {
		return err
	}
	if s.dynamic, err = dynamic.NewForConfig(s.admin); err != nil {
		return err
	}
	s.mapper = newMapper(s.client.Discovery())
	return nil
}

// binary is the configuration of a client that speaks protobuf where the server does.
func (s *Server) binary() *rest.Config {
	config := rest.CopyConfig(s.admin)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return config
}

// Config returns the configuration of an administrator's client, to be changed at will.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.admin) }

// Client is an administrator's.
func (s *Server) Client() kubernetes.Interface { return s.client }

// Dynamic is an administrator's client of any kind.
func (s *Server) Dynamic() dynamic.Interface { return s.dynamic }

// User says whom a kubeconfig is for, and its way to the server.
type User struct {
	// Namespace and Account are of a service account, which must exist; none means an administrator.
	Namespace, Account string
	// Through is a link to connect through, nil for straight.
	Through *Link
}

// Kubeconfig writes a file for --kubeconfig.
func (s *Server) Kubeconfig(ctx context.Context, user User) (string, error) {
	info := &clientcmdapi.AuthInfo{ClientCertificateData: s.admin.CertData, ClientKeyData: s.admin.KeyData}
	if user.Account != "" {
		token, err := s.Token(ctx, Token{Namespace: user.Namespace, Account: user.Account})
		if err != nil {
			return "", err
		}
		info = &clientcmdapi.AuthInfo{Token: token}
	}
	host := s.admin.Host
	if user.Through != nil {
		host = "https://" + user.Through.Addr()
	}
	const name = "tulle"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: host, CertificateAuthorityData: s.authority.PEM}
	config.AuthInfos[name] = info
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	s.lock.Lock()
	s.configs++
	file := filepath.Join(s.dir, fmt.Sprintf("kubeconfig-%d", s.configs))
	s.lock.Unlock()
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	return file, os.Chmod(file, 0o600)
}

// Token says what a token is to be for.
type Token struct {
	Namespace, Account string
	Pod                string        // that it is bound to, "" for none; the pod must exist and name the account
	Audiences          []string      // none means the API server
	Life               time.Duration // at least ten minutes; zero means a day
}

// Token asks the API server for the token of a service account.
func (s *Server) Token(ctx context.Context, t Token) (string, error) {
	life := t.Life
	if life == 0 {
		life = 24 * time.Hour
	}
	seconds := int64(life / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: t.Audiences, ExpirationSeconds: &seconds}}
	if t.Pod != "" {
		pod, err := s.client.CoreV1().Pods(t.Namespace).Get(ctx, t.Pod, metav1.GetOptions{})
		if err != nil {
			return "", fmt.Errorf("token of %s/%s: %w", t.Namespace, t.Account, err)
		}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	answer, err := s.client.CoreV1().ServiceAccounts(t.Namespace).CreateToken(ctx, t.Account, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of %s/%s: %w", t.Namespace, t.Account, err)
	}
	return answer.Status.Token, nil
}
