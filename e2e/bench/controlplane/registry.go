package main

import (
	"context"
	"fmt"
	"path"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// registry is where objects of Kubernetes' own kinds are kept. Who writes to it does what another API server of the same cluster does
// that answers a request: this one hears of the object from etcd, and tells those who watch. It is not checked, and has to be as the
// API server itself would have stored it.
type registry struct {
	conn *grpc.ClientConn
	kv   etcdserverpb.KVClient
}

// storing is how long etcd may take for one object.
const storing = 30 * time.Second

// openRegistry connects to etcd, at host:port. Close it after use.
func openRegistry(etcd string) (*registry, error) {
	conn, err := grpc.NewClient("passthrough:///"+etcd, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &registry{conn, etcdserverpb.NewKVClient(conn)}, nil
}

func (r *registry) close() error { return r.conn.Close() }

// put makes or replaces an object. The resource is as in etcd, mostly as in URLs, such as "pods"; the namespace may be empty.
func (r *registry) put(ctx context.Context, resource, namespace, name string, version schema.GroupVersion, object runtime.Object) error {
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return fmt.Errorf("no encoding of %s", runtime.ContentTypeProtobuf)
	}
	text, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, version), object)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storing)
	defer cancel()
	_, err = r.kv.Put(ctx, &etcdserverpb.PutRequest{Key: registryKey(resource, namespace, name), Value: text})
	return err
}

// delete removes an object.
func (r *registry) delete(ctx context.Context, resource, namespace, name string) error {
	ctx, cancel := context.WithTimeout(ctx, storing)
	defer cancel()
	_, err := r.kv.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: registryKey(resource, namespace, name)})
	return err
}

func registryKey(resource, namespace, name string) []byte {
	return []byte(path.Join("/registry", resource, namespace, name))
}
