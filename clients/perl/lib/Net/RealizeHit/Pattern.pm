package Net::RealizeHit::Pattern;

use v5.36;

use B                       ();
use Digest::MD5             ();
use Encode                  ();
use Exporter                qw(import);
use Net::RealizeHit::Error  ();
use Net::RealizeHit::JSON   ();
use Net::RealizeHit::Number ();
use Scalar::Util            qw(blessed);

our $VERSION   = '0.1.0';
our @EXPORT_OK = qw(pattern_text pattern_id MAX_FILTERS MAX_KEY MAX_VALUE MAX_CHANNEL);

# Bounds of a pattern; sizes are in bytes of the encoded text.
use constant {
    MAX_FILTERS => 16,
    MAX_KEY     => 64,
    MAX_VALUE   => 256,
    MAX_CHANNEL => 1024,
};

my $UNRESERVED = qr/[^0-9A-Za-z\-._~]/a;

sub pattern_text ($pattern) { return text_of( values_of($pattern) ) }

sub pattern_id ($pattern) { return id_of( pattern_text($pattern) ) }

# The label of a canonical text on the wire.
sub id_of ($text) { return substr Digest::MD5::md5_hex($text), 0, 8 }

# The pattern with each value as the text that it stands for. Perl does not distinguish numbers from texts, so this is
# what goes over the wire.
sub values_of ($pattern) {
    _bad('a pattern is a reference to a hash') if ref $pattern ne 'HASH';
    my $count = keys %{$pattern};
    _bad('a pattern needs at least one filter') if $count == 0;
    _bad("a pattern has at most ${\MAX_FILTERS} filters, this one has $count") if $count > MAX_FILTERS;
    my %values;
    for my $key ( keys %{$pattern} ) {
        $values{$key} = _value( $key, $pattern->{$key} );
    }
    return \%values;
}

# The canonical text of what values_of returned.
sub text_of ($values) {
    my %encoded;
    for my $key ( keys %{$values} ) {
        my $value = $values->{$key};
        if ( $key eq q{*} ) {
            _bad('the key * takes only the value *') if $value ne q{*};
            $encoded{q{*}} = q{*};
            next;
        }
        my $shown = _shown($key);
        _bad('a key is empty')             if $key eq q{};
        _bad("the value of $shown is empty") if $value eq q{};
        for my $each ( [ "the key $shown", $key ], [ "the value of $shown", $value ] ) {
            _bad("$each->[0] has a character that is not Unicode text") if $each->[1] =~ /[\x{D800}-\x{DFFF}]|[^\x{0}-\x{10FFFF}]/;
        }
        my $name = _encode($key);
        my $text = $value eq q{*} ? q{*} : _encode($value);
        _bad( "the key $shown has ${\length $name} encoded bytes, at most ${\MAX_KEY} are allowed" )
            if length $name > MAX_KEY;
        _bad( "the value of $shown has ${\length $text} encoded bytes, at most ${\MAX_VALUE} are allowed" )
            if length $text > MAX_VALUE;
        $encoded{$name} = $text;
    }
    my $channel = join q{|}, map {"$_:$encoded{$_}"} sort keys %encoded;
    _bad("the pattern has ${\length $channel} encoded bytes, at most ${\MAX_CHANNEL} are allowed")
        if length $channel > MAX_CHANNEL;
    return $channel;
}

# The filters of a channel; undef if it is not one.
sub filters_of ($channel) {
    return if $channel eq q{};
    my %filters;
    for my $part ( split /\|/, $channel, -1 ) {
        my ( $key, $value ) = $part =~ /\A([^:]+):([^:]+)\z/ or return;
        for my $text ( $key, $value ) {
            return if $text =~ /%(?![[:xdigit:]]{2})|[^\x21-\x7e]/a;
            $text =~ s/%([[:xdigit:]]{2})/chr hex $1/ega;
            $text = eval { Encode::decode( 'UTF-8', $text, Encode::FB_CROAK ) } // return;
        }
        $filters{$key} = $value;
    }
    return \%filters;
}

sub _value ( $key, $value ) {
    my $what = 'the value of ' . _shown($key);
    _bad("$what is undefined") if !defined $value;
    if ( blessed $value ) {
        return $value ? 'true' : 'false' if Net::RealizeHit::JSON::is_boolean($value);
        return _big( $what, $value )     if $value->isa('Math::BigInt') || $value->isa('Math::BigFloat');
    }
    _bad("$what is a reference to ${\ref $value}, not a text, a number or a boolean") if ref $value;
    no warnings 'experimental::builtin';
    return $value ? 'true' : 'false' if builtin::is_bool($value);
    return "$value"                  if !builtin::created_as_number($value);
    return "$value"                  if B::svref_2object( \$value )->FLAGS & B::SVf_IOK;    # an integer
    return Net::RealizeHit::Number::text_of($value) // _bad("$what is not a finite number");
}

sub _big ( $what, $value ) {
    _bad("$what is not a finite number") if $value->is_nan || $value->is_inf;
    if ( $value->isa('Math::BigInt') && !$value->isa('Math::BigFloat') ) {
        my $text = $value->bstr;
        return $text if $value->bcmp('-9223372036854775808') >= 0 && $value->bcmp('18446744073709551615') <= 0;
    }
    return Net::RealizeHit::Number::text_of( 0 + $value->bsstr ) // _bad("$what is a number that no double can hold");
}

sub _encode ($text) {
    return Encode::encode( 'UTF-8', $text ) =~ s/($UNRESERVED)/sprintf '%%%02X', ord $1/egr;
}

# A key in a message to people: short, and without control characters.
sub _shown ($key) {
    my $short = length $key > 80 ? substr( $key, 0, 77 ) . '...' : $key;
    return q{'} . $short =~ s/([^\x20-\x7e\x{a0}-\x{d7ff}])/sprintf '\\x{%x}', ord $1/egr . q{'};
}

sub _bad ($text) { return Net::RealizeHit::Error->throw( 'BadPattern', code => 'bad-pattern', text => $text ) }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Pattern - canonical texts and ids of patterns

=head1 SYNOPSIS

    use Net::RealizeHit::Pattern qw(pattern_text pattern_id);

    say pattern_text( { kind => 'news', channel => 'CNN' } );    # channel:CNN|kind:news
    say pattern_id( { kind => 'news', channel => 'CNN' } );      # 3bf1d979

=head1 DESCRIPTION

A pattern is a reference to a hash of 1 to 16 filters. A value is a text, a number, or a boolean: of the JSON library, of
Perl (C<!!1>), or a L<Math::BigInt> or L<Math::BigFloat>. Texts are characters and not bytes. The number 3 and the text
C<3> are the same value. In a subscription the value C<*> stands for any value, and the filter C<< '*' => '*' >> for any
further filters.

All functions die with a C<Net::RealizeHit::Error::BadPattern> that names the filter and the bound if the pattern is not
valid.

=head1 FUNCTIONS

=head2 pattern_text

The canonical text, such as C<channel:CNN|kind:news>.

=head2 pattern_id

The label on the wire, 8 hexadecimal digits. Two patterns may have the same one.

=head2 id_of

The label of a canonical text.

=head2 values_of

The pattern with each value as its text.

=head2 text_of

The canonical text of what C<values_of> returned.

=head2 filters_of

The filters of a canonical text; C<undef> if it is not one.

=head1 CONSTANTS

C<MAX_FILTERS> (16), C<MAX_KEY> (64), C<MAX_VALUE> (256), C<MAX_CHANNEL> (1,024); sizes are in bytes of the encoded text.

=cut
