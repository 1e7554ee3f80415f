//! The code that is generated from the list of kinds in [`super`]: everything that is done once for each kind.

/// Takes the list of kinds: a name, the type of the kind's controller, and the names of the earlier kinds whose memory
/// its constructor needs.
macro_rules! kinds {
    ($($name:ident: $kind:ty $(where $($other:ident),+)?;)+) => {
        /// The controllers of all kinds.
        pub struct Kinds {
            shared: Arc<Shared>,
            $($name: Controller<$kind>,)+
        }

        impl Kinds {
            /// Makes the controllers, and a lane in the queue for each kind whose feature is on.
            #[must_use]
            pub fn new(queue: &DueQueue, features: &Features, shared: impl FnOnce(Lanes) -> Shared) -> Self {
                let mut lanes = Lanes::default();
                $(let $name = lanes.add(queue, features.has(<$kind>::FEATURE));)+
                let shared = Arc::new(shared(lanes));
                $(
                    let (lane, feed) = $name;
                    let $name = Controller {
                        kind: Arc::new(<$kind>::new(&shared, lane $($(, &*$other.kind)+)?)),
                        feed,
                    };
                )+
                Self { shared, $($name,)+ }
            }

            /// Starts the watches that the kinds declare. They never end by themselves.
            pub fn watch(&self, secret_namespaces: Vec<String>) -> impl Future<Output = ()> + Send + use<> {
                let (client, namespace) = (self.shared.client.clone(), &self.shared.settings.namespace);
                let refused = &self.shared.caches.refused;
                let mut watches = AllWatches::new(client, namespace, secret_namespaces, refused);
                $(self.$name.leave_out(&mut watches);)+
                $(self.$name.watch(&self.shared, &mut watches);)+
                watches.start(&self.shared)
            }

            /// Registers a metric that counts the objects of each of our kinds.
            pub fn count(&self) {
                $(self.$name.count(&self.shared);)+
            }

            /// Runs all controllers until `shutdown`, then finishes the reconciles under way.
            pub async fn run(self, in_flight: InFlight, shutdown: CancellationToken) {
                if let Err(error) = self.shared.ensure_root_keys().await {
                    // Only webhooks need it. A controller that needs it tries again and reports failures in status.
                    tracing::warn!(error = &error as &dyn std::error::Error, "there is no root key for webhooks yet");
                }
                futures::join!($(drive(self.$name.kind, self.$name.feed, &in_flight, &shutdown)),+);
            }
        }

        /// The definition of each of our kinds, in the order in which they are installed.
        #[must_use]
        pub fn definitions() -> Vec<CustomResourceDefinition> {
            [$(<$kind>::DEFINITION),+].into_iter().flatten().map(|definition| definition()).collect()
        }

        /// The RBAC rules, each with the feature that needs it.
        pub fn rules() -> impl Iterator<Item = (Feature, &'static Rule)> {
            let shared = shared::RULES.iter().map(|rule| (Feature::Tokens, rule));
            shared$(.chain(<$kind>::RULES.iter().map(|rule| (<$kind>::FEATURE, rule))))+
        }
    };
}
pub(super) use kinds;
