//! What tokens cost.
//!
//! Prices are data with a day from which they hold: the settings' own first, then the built-in list. A model without
//! a price is never free by accident.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::civil::Date;
use serde::Deserialize;

use crate::domain::{Nanousd, Usage};

use super::provider_settings::{ProviderKind, ProviderSettings};
use super::settings::{GatewaySettings, PriceSettings, UnknownPrice};

/// Trillionths of a dollar for one token: a whole number for any price with up to six digits after the point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    pub input_picousd: u64,
    pub cached_input_picousd: u64,
    pub output_picousd: u64,
}

impl Price {
    /// What this usage costs, rounded up to whole nano-dollars once for the whole call.
    pub fn of(&self, usage: Usage) -> Nanousd {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let parts = [
            (usage.input_tokens - cached, self.input_picousd),
            (cached, self.cached_input_picousd),
            (usage.output_tokens, self.output_picousd),
        ];
        let pico: u128 = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price)).sum();
        Nanousd(u64::try_from(pico.div_ceil(1_000)).unwrap_or(u64::MAX))
    }

    fn from_settings(settings: &PriceSettings) -> Option<Self> {
        let pico = |usd_per_mtok: f64| {
            let pico = (usd_per_mtok * 1e6).round();
            (0.0..1e15).contains(&pico).then_some(pico as u64)
        };
        let input_picousd = pico(settings.input_usd_per_mtok)?;
        let cached_input_picousd = match settings.cached_input_usd_per_mtok {
            Some(usd) => pico(usd)?,
            None => input_picousd,
        };
        Some(Self { input_picousd, cached_input_picousd, output_picousd: pico(settings.output_usd_per_mtok)? })
    }
}

#[derive(Deserialize)]
struct BuiltIn {
    prices: Vec<PriceSettings>,
}

/// The built-in list; `provider` stands for the wire format's own vendor there.
static BUILT_IN: LazyLock<Vec<PriceSettings>> = LazyLock::new(|| {
    let list: BuiltIn = toml::from_str(include_str!("prices.toml")).expect("the built-in list is tested");
    list.prices
});

/// Prices of models on a day.
#[derive(Debug, Clone)]
pub struct PriceList {
    own: Vec<PriceSettings>,
    vendors: BTreeMap<String, &'static str>,
    unknown: UnknownPrice,
}

impl PriceList {
    /// The prices in force with these settings.
    pub fn new(settings: &GatewaySettings) -> Self {
        let vendor = |provider: &ProviderSettings| match (provider.kind, &provider.base_url) {
            (ProviderKind::OpenaiCompatible, None) => Some("openai"),
            (ProviderKind::Anthropic, None) => Some("anthropic"),
            // Somebody else's server with somebody else's prices.
            _ => None,
        };
        let vendors = settings.providers.iter().filter_map(|(name, provider)| Some((name.clone(), vendor(provider)?)));
        Self { own: settings.prices.clone(), vendors: vendors.collect(), unknown: settings.unknown_price }
    }

    /// The newest price that has begun on `day`; `None` if none is known and unknown ones are refused.
    pub fn price(&self, provider: &str, model: &str, day: Date) -> Option<Price> {
        let own = self.own.iter().filter(|price| price.provider == provider || price.provider == "*");
        let vendor = self.vendors.get(provider);
        let built_in = BUILT_IN.iter().filter(|price| Some(&price.provider.as_str()) == vendor);
        let found = newest(own, model, day).or_else(|| newest(built_in, model, day));
        match (found, self.unknown) {
            (Some(price), _) => Some(price),
            (None, UnknownPrice::Free) => Some(Price::default()),
            (None, UnknownPrice::Refuse) => None,
        }
    }
}

fn newest<'a>(prices: impl Iterator<Item = &'a PriceSettings>, model: &str, day: Date) -> Option<Price> {
    let begun = prices.filter(|price| price.model == model && price.from <= day);
    begun.max_by_key(|price| price.from).and_then(Price::from_settings)
}

/// What is wrong with prices as such.
pub fn problems(prices: &[PriceSettings]) -> Vec<String> {
    let unusable = prices.iter().filter(|price| Price::from_settings(price).is_none());
    unusable.map(|price| format!("prices: {} {}: a price must be 0 or above", price.provider, price.model)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(model: &str, from: &str, input: f64) -> PriceSettings {
        PriceSettings {
            provider: "*".to_owned(),
            model: model.to_owned(),
            from: from.parse().unwrap(),
            input_usd_per_mtok: input,
            cached_input_usd_per_mtok: None,
            output_usd_per_mtok: 2.0 * input,
        }
    }

    fn usage(input_tokens: u64, cached_input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, cached_input_tokens, output_tokens }
    }

    #[test]
    fn a_call_costs_its_tokens_rounded_up_once() {
        let price = Price { input_picousd: 150_000, cached_input_picousd: 12_500, output_picousd: 600_000 };

        assert_eq!(price.of(usage(1_000, 0, 100)), Nanousd(150_000 + 60_000));
        assert_eq!(price.of(usage(1_001, 1, 0)), Nanousd(150_013));
        // A server that claims to have cached more than there was is not believed.
        assert_eq!(price.of(usage(1, 9, 0)), Nanousd(13));
        assert_eq!(price.of(usage(u64::MAX, 0, u64::MAX)), Nanousd(u64::MAX));
        assert_eq!(price.of(usage(0, 0, 0)), Nanousd(0));
    }

    #[test]
    fn the_newest_price_that_has_begun_holds() {
        let settings = GatewaySettings {
            prices: vec![price("m", "2026-01-01", 1.0), price("m", "2026-06-01", 3.0), price("m", "2026-03-01", 2.0)],
            ..GatewaySettings::default()
        };
        let list = PriceList::new(&settings);
        let on = |day: &str| list.price("any", "m", day.parse().unwrap()).map(|price| price.input_picousd);

        assert_eq!(on("2025-12-31"), None);
        assert_eq!(on("2026-01-01"), Some(1_000_000));
        assert_eq!(on("2026-05-31"), Some(2_000_000));
        assert_eq!(on("2027-01-01"), Some(3_000_000));
    }

    #[test]
    fn an_unknown_price_is_refused_unless_the_settings_say_free() {
        let day = "2026-11-23".parse().unwrap();
        let free = GatewaySettings { unknown_price: UnknownPrice::Free, ..GatewaySettings::default() };

        assert_eq!(PriceList::new(&GatewaySettings::default()).price("local", "m", day), None);
        assert_eq!(PriceList::new(&free).price("local", "m", day), Some(Price::default()));
    }

    #[test]
    fn built_in_prices_hold_for_the_vendors_own_servers_only() {
        let day = "2026-11-23".parse().unwrap();
        let elsewhere = ProviderSettings { base_url: Some("http://127.0.0.1:1/v1".to_owned()), ..Default::default() };
        let providers = [("hosted".to_owned(), ProviderSettings::default()), ("local".to_owned(), elsewhere)].into();
        let list = PriceList::new(&GatewaySettings { providers, ..GatewaySettings::default() });

        assert!(list.price("hosted", "gpt-4o-mini", day).is_some());
        assert_eq!(list.price("local", "gpt-4o-mini", day), None);
        assert!(problems(&BUILT_IN).is_empty());
    }
}
