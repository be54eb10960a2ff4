package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
)

// watchVariable makes this program the plain watch, of pods in the cluster of a kubeconfig. It has a process of its own, since one
// that a hundred clients share it with lets it wait.
const watchVariable = "TULLE_BENCH_WATCH"

// sight is what the plain watch sees of a pod.
type sight struct {
	Pod, Version              string // namespace/name; the label
	Ready, Addressed, Deleted bool
	At                        time.Time
}

// watchPods follows pods as plainly as can be, and writes what it sees, until the context ends.
func watchPods(ctx context.Context, kubeconfig string, out io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	pods := client.CoreV1().Pods("")
	list, err := pods.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	// A watch that the server ends, such as one that doesn't keep up, goes on where it was.
	follow, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: pods.Watch})
	if err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	if err := lines.Encode(sight{}); err != nil { // it has begun
		return err
	}
	for e := range follow.ResultChan() {
		if pod, ok := e.Object.(*corev1.Pod); ok {
			if err := lines.Encode(see(e.Type, pod)); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

func see(kind watch.EventType, pod *corev1.Pod) sight {
	return sight{
		Pod: pod.Namespace + "/" + pod.Name, Version: pod.Labels["version"], Addressed: len(pod.Status.PodIPs) > 0, Deleted: kind == watch.Deleted,
		Ready: slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}),
		At: time.Now(),
	}
}

// watch starts the plain watch, which ends with the context.
func (c *churn) watch(ctx context.Context) error {
	kubeconfig, err := c.server.Kubeconfig(ctx, apiserver.User{})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), watchVariable+"="+kubeconfig)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the plain watch: %w", err)
	}
	lines := json.NewDecoder(out)
	var begun sight
	if err := lines.Decode(&begun); err != nil {
		return fmt.Errorf("the plain watch doesn't begin: %w", err)
	}
	go func() {
		defer cmd.Wait()
		for {
			var one sight
			if lines.Decode(&one) != nil {
				return // settle tells when something is missing
			}
			c.observe(one)
		}
	}()
	return nil
}
