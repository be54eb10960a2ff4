// Package addresses gives ServiceEntries without addresses some that clients can dial, and writes them into their status,
// which is where everybody else reads them from. An address stays as long as its host does.
package addresses

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/queue"
)

// manager is the field manager of addresses.
const manager = "istio-ip-autoallocate"

var resource = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "serviceentries"}

// Writer gives addresses while this control plane leads.
type Writer struct {
	client  dynamic.Interface
	trouble func(name model.Name, uid, message string)
	queue   *queue.Queue[model.Name]

	lock      sync.Mutex
	entries   map[model.Name]Entry
	without   map[model.Name]bool // entries that lack an address, which was told
	allocator *allocator          // nil while another leads
}

// New makes a Writer, which writes while it is run. It calls trouble to tell that an entry gets no address, or, with an empty message,
// that it does after all; trouble doesn't wait.
func New(client dynamic.Interface, trouble func(name model.Name, uid, message string), log *slog.Logger) *Writer {
	w := &Writer{client: client, trouble: trouble, entries: make(map[model.Name]Entry), without: make(map[model.Name]bool)}
	w.queue = queue.New(w.write, log)
	return w
}

// Put takes in a ServiceEntry that came or changed. It doesn't wait.
func (w *Writer) Put(o *model.ServiceEntry) {
	entry := entryOf(o)
	w.lock.Lock()
	var losers []model.Name
	w.entries[entry.Name] = entry
	if w.allocator != nil {
		losers = w.allocator.put(entry)
	}
	w.lock.Unlock()
	for _, name := range append(losers, entry.Name) {
		w.queue.Add(name)
	}
}

// entryOf says what counts of a ServiceEntry. Names below a name can't be dialled, unless DNS is asked for each; and an entry
// whose endpoints are where the client dials has no use for an address.
func entryOf(o *model.ServiceEntry) Entry {
	entry := Entry{Name: o.Key().Name, Created: o.Created, Fixed: o.VIPs}
	for _, held := range o.Allocated {
		entry.Held = append(entry.Held, Assignment{held.Host, held.IP})
	}
	if len(o.VIPs) > 0 || o.Unallocated || o.Resolution == model.ResolveNone {
		return entry
	}
	for _, host := range o.Hosts {
		if !strings.HasPrefix(host, "*") || o.Resolution == model.ResolveDynamic {
			entry.Hosts = append(entry.Hosts, host)
		}
	}
	return entry
}

// Drop forgets a ServiceEntry that went.
func (w *Writer) Drop(name model.Name) {
	w.lock.Lock()
	defer w.lock.Unlock()
	delete(w.entries, name)
	if w.allocator != nil {
		w.allocator.drop(name)
	}
	if w.without[name] {
		delete(w.without, name)
		w.trouble(name, "", "")
	}
}

// Run gives addresses until the context ends, which isn't an error. It is for the leader, once all entries were put that
// are there at the start: what it doesn't know of it might give twice.
func (w *Writer) Run(ctx context.Context) error {
	w.lock.Lock()
	w.allocator = newAllocator(w.entries)
	w.lock.Unlock()
	defer func() {
		w.lock.Lock()
		defer w.lock.Unlock()
		w.allocator = nil
		clear(w.without) // whoever leads next tells it
	}()
	w.queue.Run(ctx, func(context.Context) {
		w.lock.Lock()
		names := slices.Collect(maps.Keys(w.entries))
		w.lock.Unlock()
		for _, name := range names {
			w.queue.Add(name)
		}
	})
	return nil
}

// decide returns what an entry should have; nothing is to be done if it differs not from what it is known to have.
func (w *Writer) decide(name model.Name) (wanted []Assignment, differs bool, err error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	entry, known := w.entries[name]
	if !known || w.allocator == nil {
		return nil, false, nil
	}
	wanted, err = w.allocator.want(name)
	return wanted, !same(entry.Held, wanted), err
}

// tell says what an entry lacks, once.
func (w *Writer) tell(name model.Name, uid string, lack error) {
	w.lock.Lock()
	told := w.without[name]
	if lack != nil {
		w.without[name] = true
	} else {
		delete(w.without, name)
	}
	w.lock.Unlock()
	switch {
	case lack != nil && !told:
		w.trouble(name, uid, lack.Error())
	case lack == nil && told:
		w.trouble(name, uid, "")
	}
}

func (w *Writer) write(ctx context.Context, name model.Name) error {
	wanted, differs, lack := w.decide(name)
	if lack == nil && !differs {
		w.tell(name, "", nil)
		return nil
	}
	client := w.client.Resource(resource).Namespace(name.Namespace)
	found, err := client.Get(ctx, name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	w.tell(name, string(found.GetUID()), lack)
	return errors.Join(lack, w.update(ctx, found, wanted)) // what is lacking comes when another entry goes: it is tried again
}

// update brings an entry's status up to date.
func (w *Writer) update(ctx context.Context, found *unstructured.Unstructured, wanted []Assignment) error {
	if held := heldBy(found); same(held, wanted) || len(wanted) == 0 && !slices.ContainsFunc(held, func(a Assignment) bool { return ours(a.IP) }) {
		return nil
	}
	client := w.client.Resource(resource).Namespace(found.GetNamespace())
	_, err := client.Patch(ctx, found.GetName(), types.MergePatchType, patch(found.GetResourceVersion(), wanted), metav1.PatchOptions{FieldManager: manager}, "status")
	return err
}

// patch writes the addresses, if nobody has written anything since the version.
func patch(version string, wanted []Assignment) []byte {
	var list []any // null takes the field away
	for _, a := range wanted {
		list = append(list, map[string]string{"host": a.Host, "value": a.IP.String()})
	}
	text, err := json.Marshal(map[string]any{
		"metadata": map[string]string{"resourceVersion": version},
		"status":   map[string]any{"addresses": list},
	})
	if err != nil {
		panic(err) // only strings
	}
	return text
}

// same compares without regard to order.
func same(a, b []Assignment) bool {
	return slices.Equal(sorted(a), sorted(b))
}

func sorted(list []Assignment) []Assignment {
	return slices.SortedFunc(slices.Values(list), func(a, b Assignment) int {
		if order := strings.Compare(a.Host, b.Host); order != 0 {
			return order
		}
		return a.IP.Compare(b.IP)
	})
}

// heldBy reads the addresses in an entry's status.
func heldBy(o *unstructured.Unstructured) []Assignment {
	list, _, err := unstructured.NestedSlice(o.Object, "status", "addresses")
	if err != nil {
		return nil // of another shape, so not what is wanted
	}
	var held []Assignment
	for _, item := range list {
		object, _ := item.(map[string]any)
		host, _ := object["host"].(string)
		value, _ := object["value"].(string)
		ip, err := netip.ParseAddr(value)
		if err != nil {
			ip = netip.Addr{}
		}
		held = append(held, Assignment{host, ip})
	}
	return held
}
