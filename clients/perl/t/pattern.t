use v5.36;

use Cpanel::JSON::XS ();
use FindBin          qw($Bin);
use Math::BigFloat   ();
use Math::BigInt     ();
use Test::More;

use Net::RealizeHit::Number  ();
use Net::RealizeHit::Pattern qw(pattern_text pattern_id MAX_FILTERS);

# The vectors of the repository, where this is a checkout of it.
sub vectors () {
    my @places = ( $ENV{REALIZEHIT_VECTORS} // (), map { "$Bin/" . '../' x $_ . 'tests/vectors.json' } 2 .. 5 );
    my ($file) = grep {-e} @places;
    return if !defined $file;
    open my $handle, '<:raw', $file or die "$file: $!\n";
    local $/ = undef;
    my $text = readline $handle;
    close $handle or die "$file: $!\n";
    return $text;
}

sub refused ( $pattern, $like, $name ) {
    my $text  = eval { pattern_text($pattern) };
    my $error = $@;
    is( $text, undef, "$name is refused" );
    isa_ok( $error, 'Net::RealizeHit::Error::BadPattern', "error of $name" );
    is( $error->code, 'bad-pattern', "code of $name" );
    like( $error->text, $like, "text of $name" );
    return;
}

subtest 'vectors' => sub {
    my $raw = vectors() // plan skip_all => 'the vectors are in the repository, not in the distribution';
    for my $json ( Cpanel::JSON::XS->new->utf8, Cpanel::JSON::XS->new->utf8->allow_bignum ) {
        my $vectors = $json->decode($raw);
        for my $row ( map { @{ $vectors->{$_} } } qw(valid subscription_only wildcards) ) {
            is( pattern_text( $row->{in} ), $row->{channel}, "text of $row->{channel}" );
            is( pattern_id( $row->{in} ),   $row->{id},      "id of $row->{channel}" );
            is_deeply(
                Net::RealizeHit::Pattern::filters_of( $row->{channel} ),
                Net::RealizeHit::Pattern::values_of( $row->{in} ),
                "filters of $row->{channel}"
            );
        }
        refused( $_->{in}, qr/\S/, Cpanel::JSON::XS->new->canonical->allow_nonref->encode( $_->{in} ) ) for @{ $vectors->{invalid} };
    }
};

subtest 'values' => sub {
    is( pattern_text( { kind => 'news', channel => 'CNN' } ), 'channel:CNN|kind:news', 'sorted' );
    is( pattern_id( { kind => 'news', channel => 'CNN' } ), '3bf1d979', 'id' );
    is( pattern_text( { a => 3 } ),   'a:3', 'an integer' );
    is( pattern_text( { a => '3' } ), 'a:3', 'a text of digits' );
    my $number = 3.5;
    my $shown  = "$number";
    is( pattern_text( { a => $number } ), 'a:3.5',     'a number that was used as a text' );
    is( pattern_text( { a => '3.50' } ),  'a:3.50',    'a text that looks like a number' );
    is( pattern_text( { a => !!1 } ),     'a:true',    'true of Perl' );
    is( pattern_text( { a => !!0 } ),     'a:false',   'false of Perl' );
    is( pattern_text( { a => 1e21 } ),    'a:1e%2B21', 'a large number' );
    is( pattern_text( { a => 18_446_744_073_709_551_615 } ),  'a:18446744073709551615', 'the largest integer' );
    is( pattern_text( { a => -9_223_372_036_854_775_807 - 1 } ), 'a:-9223372036854775808', 'the smallest integer' );
    is( pattern_text( { a => Math::BigInt->new('18446744073709551616') } ), 'a:18446744073709552000', 'beyond it' );
    is( pattern_text( { a => Math::BigFloat->new('0.1') } ), 'a:0.1',         'a big float' );
    is( pattern_text( { "\x{e9}" => "\x{1f600}" } ), '%C3%A9:%F0%9F%98%80', 'characters' );
};

subtest 'refusals' => sub {
    refused( undef, qr/reference to a hash/, 'no pattern' );
    refused( [], qr/reference to a hash/, 'a list' );
    refused( { a => undef }, qr/'a' is undefined/, 'an undefined value' );
    refused( { a => 9**9**9 }, qr/'a' is not a finite number/, 'infinity' );
    refused( { a => -sin 9**9**9 }, qr/'a' is not a finite number/, 'NaN' );
    refused( { a => Math::BigInt->new( '1' . '0' x 400 ) }, qr/no double/, 'an integer that no double can hold' );
    refused( { a => chr 0xD800 }, qr/the value of 'a' .* not Unicode/, 'a lone surrogate' );
    refused( { a => sub { } }, qr/'a' is a reference/, 'a function' );
    refused( { 'a*' => q{}, }, qr/'a[*]' is empty/, 'an empty value' );
    refused( { q{*} => 'x' }, qr/key [*] takes only/, 'a key of a star' );
    refused( { map { $_ => 1 } 1 .. 17 }, qr/at most ${\MAX_FILTERS} filters, this one has 17/, '17 filters' );
    refused( { 'k' x 65 => 1 }, qr/65 encoded bytes, at most 64/, 'a long key' );
    refused( { k => "\x{e9}" x 43 }, qr/258 encoded bytes, at most 256/, 'a long value' );
    refused( { map { $_ => 'x' x 250 } 1 .. 5 }, qr/pattern has \d+ encoded bytes, at most 1024/, 'a long channel' );
};

subtest 'filters_of' => sub {
    for my $wrong ( q{}, 'a', 'a:', ':b', 'a:b|', 'a:b:c', 'a:%zz', 'a:%4', 'a:%ff', "a:b\n", 'a: ' ) {
        is( Net::RealizeHit::Pattern::filters_of($wrong), undef, "'$wrong' is not a channel" );
    }
};

subtest 'numbers' => sub {
    my %text_of = (
        '0.1'                     => 0.1,
        '123456789.125'           => 123_456_789.125,
        '0.000001'                => 1e-6,
        '1e-7'                    => 1e-7,
        '5e-324'                  => 5e-324,
        '1.7976931348623157e+308' => 1.7976931348623157e308,
        '5.684341886080802e-14'   => 2**-44,
        '9007199254740992'        => 9_007_199_254_740_993,
        '-12.5'                   => -12.5,
        '100000000000000000000'   => 1e20,
        '0'                       => -0.0,
    );
    is( Net::RealizeHit::Number::text_of( $text_of{$_} ), $_, "the number $_" ) for sort keys %text_of;
    srand 17;
    for ( 1 .. 2000 ) {
        my $number = unpack 'd', pack 'NN', rand 2**32, rand 2**32;
        my $text = Net::RealizeHit::Number::text_of($number) // next;
        next if $text == $number;
        fail("$text is read as the number that it was made of");
    }
};

done_testing();
